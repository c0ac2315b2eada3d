"""Adapts a small language model to two tasks at once by LoRA.

``python examples/lora_text.py --picture lora.png`` pre-trains a transformer on the help
texts that come with Python, in small letters and without quotes. Then its weights are
frozen, and adapters of rank 4 learn two tasks: which letters are capitals, and which
words are code. MaxGNR's momentum covers the adapters only: nothing else is trained.
"""

from pathlib import Path
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score

from maxgnr_jax import maxgnr, value_and_task_grads

WIDTH, HEADS, LENGTH, BATCH, RANK = 64, 4, 64, 16, 4
TASKS = ("capital", "code")


class Block(nnx.Module):
  def __init__(self, rngs):
    self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
    self.attend = nnx.LoRALinear(WIDTH, 3 * WIDTH, lora_rank=RANK, rngs=rngs)
    self.mix = nnx.LoRALinear(WIDTH, WIDTH, lora_rank=RANK, rngs=rngs)
    self.up = nnx.LoRALinear(WIDTH, 4 * WIDTH, lora_rank=RANK, rngs=rngs)
    self.down = nnx.LoRALinear(4 * WIDTH, WIDTH, lora_rank=RANK, rngs=rngs)

  def __call__(self, x):
    heads = self.attend(self.norms[0](x)).reshape(*x.shape[:2], HEADS, -1)
    query, key, value = jnp.split(heads, 3, axis=-1)
    attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    x = x + self.mix(attended.reshape(x.shape))
    return x + self.down(jax.nn.gelu(self.up(self.norms[1](x))))


class Transformer(nnx.Module):
  def __init__(self, letters, rngs):
    self.letters = nnx.Embed(letters, WIDTH, rngs=rngs)
    self.places = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
    self.blocks = nnx.List([Block(rngs) for _ in range(2)])
    self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
    self.heads = nnx.Dict({task: nnx.Linear(WIDTH, 1, rngs=rngs) for task in TASKS})

  def __call__(self, text):
    """Returns features of text [B, T], and the logits of each letter's successor."""
    x = self.letters(text) + self.places.embedding[: text.shape[1]]
    for block in self.blocks:
      x = block(x)
    x = self.norm(x)
    return x, self.letters.attend(x)


ADAPTERS = nnx.LoRAParam
ADAPTED = nnx.Any(ADAPTERS, nnx.PathContains("heads"))
PRETRAINED = nnx.All(nnx.Param, nnx.Not(ADAPTED))


def is_adapter(params):
  """Selects the adapters, on which gradients are measured; heads are not shared."""
  return jax.tree.map_with_path(lambda path, _: path[0].key != "heads", params)


@nnx.jit
def pretrain_step(model, optimizer, batch):
  def loss(model):
    _, logits = model(batch["text"][:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, batch["text"][:, 1:]
    ).mean()

  value, grads = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, PRETRAINED))(model)
  optimizer.update(model, grads)
  return value


@nnx.jit
def adapt_step(model, optimizer, batch):
  graphdef, adapted, *frozen = nnx.split(model, ADAPTED, ...)

  def losses(adapted):
    model = nnx.merge(graphdef, adapted, *frozen)
    features, _ = model(batch["text"])
    return {
      task: optax.sigmoid_binary_cross_entropy(
        head(features)[..., 0], batch[task].astype(jnp.float32)
      ).mean()
      for task, head in model.heads.items()
    }

  values, grads = value_and_task_grads(losses)(adapted)
  optimizer.update(model, grads)
  return values


def read_text():
  """Returns the small letters of all help texts, and the labels of both tasks."""
  letters, capital, code = [], [], []
  for line in "\n".join(topics.values()).splitlines():
    quoted = False  # in these texts code stands in quotes
    for letter in line.strip() + "\n":
      if letter == '"':
        quoted = not quoted
      else:
        letters.append(min(ord(letter.lower()), 127))
        capital.append(letter.isupper())
        code.append(quoted)
  return {
    "text": np.array(letters),
    "capital": np.array(capital),
    "code": np.array(code),
  }


def windows(data, starts):
  rows = starts[:, None] + np.arange(LENGTH)
  return {name: x[rows] for name, x in data.items()}


def draw(path, curve, precision):
  figure = Figure(figsize=(9, 3), layout="constrained")
  left, right = figure.subplots(1, 2)
  left.plot(curve)
  left.set(xlabel="step", ylabel="loss per letter", title="pre-training, next letter")
  for at, (name, of_tasks) in enumerate(precision.items()):
    places = np.arange(len(TASKS)) + 0.4 * at
    right.bar(places, [of_tasks[task] for task in TASKS], width=0.35, label=name)
  right.set_xticks(np.arange(len(TASKS)) + 0.2, TASKS)
  right.set(title="average precision on text not seen", ylim=(0, 1))
  right.legend()
  figure.savefig(path, dpi=80)


def main(
  pretrain_steps: int = 500, steps: int = 500, picture: Path | None = None
) -> dict[str, dict[str, float]]:
  data, random = read_text(), np.random.default_rng(0)
  end = int(0.95 * len(data["text"]))  # the last twentieth is for the test
  test = windows(data, np.arange(end, len(data["text"]) - LENGTH, LENGTH))

  def batch():
    return windows(data, random.integers(end - LENGTH, size=BATCH))

  model = Transformer(128, nnx.Rngs(0))
  adam = optax.adam(optax.cosine_decay_schedule(3e-3, pretrain_steps))
  optimizer = nnx.Optimizer(model, adam, wrt=PRETRAINED)
  curve = [pretrain_step(model, optimizer, batch()) for _ in range(pretrain_steps)]
  print(f"pre-trained to {np.mean(curve[-20:]):.2f} nats per letter")

  tx = optax.chain(
    maxgnr(num_tasks=len(TASKS), shared=is_adapter, smoothing=0.9),
    optax.adam(optax.cosine_decay_schedule(1e-2, steps)),
  )
  optimizer = nnx.Optimizer(model, tx, wrt=ADAPTED)
  for _ in range(steps):
    adapt_step(model, optimizer, batch())

  features, _ = model(test["text"])
  precision: dict[str, dict[str, float]] = {"adapted": {}, "by chance": {}}
  for task, head in model.heads.items():
    truth, scores = test[task].ravel(), np.asarray(head(features)).ravel()
    precision["adapted"][task] = float(average_precision_score(truth, scores))
    precision["by chance"][task] = float(np.mean(truth))
  for name, of_tasks in precision.items():
    print(name, {task: round(x, 2) for task, x in of_tasks.items()})
  sizes = {
    name: sum(x.size for x in jax.tree.leaves(nnx.state(model, kind)))
    for name, kind in (("trained", ADAPTED), ("frozen", PRETRAINED))
  }
  print("{trained:,} numbers were adapted, {frozen:,} frozen".format(**sizes))
  if picture:
    draw(picture, np.array(curve), precision)
  return precision


if __name__ == "__main__":
  tyro.cli(main)
