"""Experiments: methods x learning rates x seeds on problems of several tasks."""
