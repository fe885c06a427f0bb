"""The Celery app without its tasks: whoever commits enqueues a task by its name."""
