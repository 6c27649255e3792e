"""The pipeline where TensorFlow is not installed: NumPy makes the batches."""

import keras
import numpy as np

from keras_robustlt.data.augmentation import TRIED


class Epoch:
    """The number of the epoch that comes next, as a `tf.Variable` would hold it."""

    def __init__(self):
        self._number = 0

    def assign(self, number):
        self._number = int(number)

    def __int__(self):
        return self._number


class ArrayPipeline(keras.utils.PyDataset):
    """Batches that are a pure function of the seed, the epoch and their index.

    Args:
        plan: A `pipeline.Plan`.

    Attributes:
        epoch: The number of the epoch whose batches `dataset[index]` gives; a loop over
            all of them, and `fit`, end with the next one.
    """

    def __init__(self, plan):
        super().__init__()
        self.epoch = Epoch()
        # The random numbers are others than those of tf.data.
        self.made_of = {**plan.made_of, "drawn_by": "NumPy"}
        self.soft_labels = plan.soft_labels
        self._plan = plan
        self._within_epoch = False
        self._drawn = None, None, None  # an epoch, and its tables
        if plan.layer is not None:
            few = plan.images[:TRIED].astype(np.float32) / np.float32(255)
            plan.layer.try_on(few, plan.labels[:TRIED], plan.num_classes)

    def __len__(self):
        return self._plan.num_batches

    def __getitem__(self, index):
        return self._batch(int(self.epoch), index)

    def __iter__(self):
        epoch = int(self.epoch)
        self.epoch.assign(epoch + 1)
        return (self._batch(epoch, index) for index in range(len(self)))

    def on_epoch_begin(self):
        self._within_epoch = True

    def on_epoch_end(self):
        # Keras also calls this where no epoch has begun.
        if self._within_epoch:
            self.epoch.assign(int(self.epoch) + 1)
        self._within_epoch = False

    def _batch(self, epoch, index):
        plan = self._plan
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} batches. Received: {index=}")
        rows = slice(plan.batch_size * index, plan.batch_size * (index + 1))
        indices, draws = (table[rows] for table in self._tables(epoch))
        if plan.part is not None:
            indices, draws = plan.part(indices), plan.part(draws)
        images = plan.augment(plan.images[indices], draws)
        images = images.astype(np.float32) / np.float32(255)
        if plan.layer is None:
            return images, plan.labels[indices]
        seeds = np.random.SeedSequence(
            plan.seed % 2**64, spawn_key=(epoch, 2 + plan.part_index, index)
        )
        return self._layered(images, plan.labels[indices], seeds.generate_state(2))

    def _layered(self, images, labels, seed):
        plan = self._plan
        targets = np.eye(plan.num_classes, dtype=np.float32)[labels]
        made = plan.layer(images, targets, seed)
        images, targets = map(keras.ops.convert_to_numpy, made)
        plan.layer.check_values(images)
        return np.clip(images, 0.0, 1.0), targets if plan.soft_labels else labels

    def _tables(self, epoch):
        """The order of the images in an epoch, and the numbers that augment them."""
        if self._drawn[0] != epoch:
            plan, num_images = self._plan, len(self._plan.images)
            seeds = np.random.SeedSequence(plan.seed % 2**64, spawn_key=(epoch,))
            order, draws = map(np.random.default_rng, seeds.spawn(2))
            shape = num_images, plan.augment.num_draws
            self._drawn = (
                epoch,
                self._order(order, num_images),
                draws.random(shape, np.float32),
            )
        return self._drawn[1:]

    def _order(self, generator, num_images):
        if self._plan.class_table:
            grouped, first, counts = self._plan.class_table
            classes = generator.integers(len(counts), size=num_images)
            return grouped[first[classes] + generator.integers(counts[classes])]
        if self._plan.shuffle:
            return generator.permutation(num_images)
        return np.arange(num_images)
