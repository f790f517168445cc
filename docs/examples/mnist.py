"""Train a network on handwritten digits, look at what it gets wrong, and keep its weights in a file.

python docs/examples/mnist.py MNIST       # a folder with the four IDX files, gzip or not
python docs/examples/mnist.py             # or the digits that come with the package
"""

import sys

import numpy as np
from safetensors.numpy import save_file

from gpucnn import SGD, Conv2D, Dense, Flatten, MaxPool2D, ReLU, Sequential, SoftmaxCrossEntropy, Trainer, get_backend
from gpucnn.data import DeviceDataset, Normalization, load
from gpucnn.optim.schedules import Linear

EPOCHS, BATCH = 5, 64

dataset = load("mnist", sys.argv[1]) if len(sys.argv) > 1 else load("digits")
layers = [Conv2D(16, 3, padding="same"), ReLU(), MaxPool2D(2), Conv2D(32, 3, padding="same"), ReLU(), MaxPool2D(2)]
model = Sequential([*layers, Flatten(), Dense(64), ReLU(), Dense(dataset.classes)])

backend = get_backend("auto")  # the first GPU, else the CPU
print(dataset, backend, model, sep="\n")
model.build(dataset.image_shape, backend, max_batch=BATCH, seed=0)

normalization = Normalization(dataset.train.images)  # to mean 0 and variance 1, by the training images
train = DeviceDataset(dataset.train, backend, normalization)
test = DeviceDataset(dataset.test, backend, normalization)

optimizer = SGD(learning_rate=0.05, momentum=0.9)
trainer = Trainer(model, SoftmaxCrossEntropy(), optimizer, batch_size=BATCH)
optimizer.set_schedule(Linear(), EPOCHS * trainer.steps(train))  # the rate falls to 0
for epoch in range(EPOCHS):
    print(f"epoch {epoch + 1}: {trainer.train_epoch(train, epoch)}")
print(f"test: {trainer.evaluate(test)}")

test.rewind()
images, labels = test.next_batch(min(1000, len(test)), train=False)
predicted = backend.to_host(model.predict(images)).argmax(axis=1)
labels = backend.to_host(labels)
for n in np.flatnonzero(predicted != labels)[:5]:
    print(f"image {n} is a {labels[n]} and was taken for a {predicted[n]}")

save_file(model.state_dict(), "digits.safetensors")  # `model.load_state_dict(load_file(...))` brings them back
