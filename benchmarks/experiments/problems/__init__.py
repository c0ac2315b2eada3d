"""What is trained: data, model, tasks and metrics."""
