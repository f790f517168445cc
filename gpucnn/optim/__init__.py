"""What turns gradients into new weights: optimizers, schedules of the learning rate, and the average of the weights."""
