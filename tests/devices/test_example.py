"""The example of data parallel training gives the same with sharded parameters."""

import numpy as np
import pytest

from examples import data_parallel


@pytest.mark.thorough
@pytest.mark.usefixtures("standard_promotion", "quick_compilation")
def test_sharded_parameters_give_the_losses_of_whole_ones(tmp_path):
  picture = tmp_path / "picture.png"
  whole = data_parallel.main(steps=40)
  sharded = data_parallel.main(steps=40, fsdp=True, picture=picture)
  assert picture.exists()
  for name, losses in whole.items():
    np.testing.assert_allclose(sharded[name], losses, rtol=1e-3)
    assert losses[-1] < 0.9 * losses[0]
