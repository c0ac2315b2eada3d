"""From the losses of several tasks to gradients."""
