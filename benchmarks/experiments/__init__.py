"""Trains and compares multi-task methods: methods x learning rates x seeds."""
