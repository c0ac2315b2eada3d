"""Gradients of the losses of several tasks."""
