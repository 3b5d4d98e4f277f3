"""What is answered when a request is refused: responses and problem documents."""
