"""A training loop of your own: forward, loss, backward, update, on arrays that you bring."""

import numpy as np

from gpucnn import SGD, Conv2D, Dense, Flatten, MaxPool2D, ReLU, Sequential, SoftmaxCrossEntropy, get_backend

backend = get_backend("auto")
rng = np.random.default_rng(0)
images = rng.standard_normal((256, 12, 12, 1), dtype=np.float32)
labels = rng.integers(0, 2, len(images), dtype=np.int32)
images[labels == 1, :6] += 0.5  # class 1 has an upper half that is a little brighter

model = Sequential([Conv2D(8, 3), ReLU(), MaxPool2D(2), Flatten(), Dense(2)])
model.build(images.shape[1:], backend, seed=0)
loss, optimizer = SoftmaxCrossEntropy(), SGD(learning_rate=0.02, momentum=0.9)
optimizer.attach(model.arena, backend)

for epoch in range(10):
    values = []
    for rows in np.split(rng.permutation(len(images)), 8):
        x, y = backend.from_host(images[rows]), backend.from_host(labels[rows])
        outputs = model(x, train=True)
        values.append(float(backend.to_host(loss.forward(outputs, y))))
        model.backpropagate(loss.backward(), need_dx=False)
        optimizer.step()
    print(f"epoch {epoch + 1}: loss {np.mean(values):.3f}")

predicted = backend.to_host(model.predict(backend.from_host(images))).argmax(axis=1)
print(f"accuracy on what it was trained on: {np.mean(predicted == labels):.1%}")
