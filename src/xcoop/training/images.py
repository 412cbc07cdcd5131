"""The images of a run, as its loaders give them: augmented by seed, and decoded once where they are read again."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from dassl.data import DatasetWrapper
from torch.utils.data import DataLoader
from torchvision import transforms as T

from xcoop.engine.data import Seeded
from xcoop.utils.image_memory import ImageMemory

# Steps that draw nothing, and that change nothing when they are done once more.
_SETTLED = (T.Resize, T.CenterCrop)


class Images(Seeded, DatasetWrapper):
    """The images of whichever engine runs, augmented by (SEED, epoch, index) alone, as `Seeded` draws them."""

    _memory: ImageMemory | None = None
    _kept_for: Any = None  # the transform

    def keep_in(self, memory: ImageMemory) -> None:
        """Keeps them as the first steps of the present transform leave them, up to where it begins to draw.

        So an image of any size takes no more room than what is made of it, unless it is cropped at random.
        """
        transform: Any = self.transform
        if self._memory is memory and self._kept_for is transform:
            return
        steps = getattr(transform, "transforms", [])  # of one `Compose`; of several transforms none comes first
        first = [] if self.return_img0 else list(takewhile(lambda step: type(step) in _SETTLED, steps))
        self._memory, self._kept_for = memory, transform
        self._prepare, self._form = T.Compose(first), repr(first)
        memory.enrol((item.impath for item in self.data_source), self._form)

    def __getitem__(self, index: int) -> Any:
        if self._memory is None or self.transform is not self._kept_for:
            return super().__getitem__(index)
        with self._memory.in_use(self._form, self._prepare):
            return super().__getitem__(index)


def decoded_once(loader: Any, memory: ImageMemory) -> Any:
    """The loader, whose images are kept from now on; one of features stays as it is."""
    if isinstance(loader, DataLoader) and isinstance(loader.dataset, Images):
        loader.dataset.keep_in(memory)
    return loader
