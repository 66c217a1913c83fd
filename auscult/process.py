"""The processes that `torchrun` starts for one command: who leads, who waits, what is summed.

Without torchrun there is one process, which leads and never waits.
"""

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from auscult.errors import UserError

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # the others wait while the leader evaluates; torchrun ends the dead


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that do one piece of work together.

    The leader alone prints, writes and evaluates.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those on this machine
    launched: bool = False  # by torchrun, which may start a single one

    @classmethod
    def of_environment(cls) -> "Processes":
        """Return what torchrun says in RANK, WORLD_SIZE and LOCAL_RANK.

        Raises:
            UserError: They are incomplete or no numbers.
        """
        if "WORLD_SIZE" not in os.environ:
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        try:
            rank, size, local_rank = [int(os.environ[name]) for name in names]
        except (KeyError, ValueError) as error:
            raise UserError(
                f"WORLD_SIZE is set, but {', '.join(names)} are not all numbers; start several "
                "processes with `torchrun --nproc_per_node N -m auscult ...`, or unset it."
            ) from error
        return cls(rank, size, local_rank, distributed.is_torchelastic_launched())

    @property
    def leads(self) -> bool:
        """Whether this process is the one that prints, writes and evaluates."""
        return self.rank == 0

    @property
    def connected(self) -> bool:
        """Whether there are several, or torchrun started this one as it starts several."""
        return self.size > 1 or self.launched

    def device(self, name: str) -> str:
        """Return the device of this process where all were told to use ``name``.

        Raises:
            UserError: A GPU that all would share, or fewer GPUs than processes.
        """
        if name == "cpu" or not self.connected or self.size == 1 and name != "cuda":
            return name
        if name != "cuda":
            raise UserError(f"--device {name} is one GPU for {self.size} processes; pass cuda.")
        count = torch.cuda.device_count()
        if self.local_rank >= count:
            raise UserError(
                f"torchrun started more processes than the {count} GPUs that torch finds; pass "
                f"--nproc_per_node {count}, or --device cpu."
            )
        return f"cuda:{self.local_rank}"

    @contextmanager
    def joined(self, device: str) -> Iterator[None]:
        """Connect the processes: over gloo, and over NCCL what is on GPUs.

        A process that fails leaves; the others find that out when they next wait for it, or are
        told to stop by torchrun, and stop with a sentence.
        """
        if not self.connected:
            yield
            return
        backend = "gloo"
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl"
        before = signal.signal(signal.SIGTERM, self._stop)
        try:
            with self._together():
                distributed.init_process_group(backend, timeout=PATIENCE)
            yield
            self.wait()  # the leader has written its results
            distributed.destroy_process_group()
        except UserError as error:
            raise UserError(f"process {self.rank} of {self.size}: {error}") from error
        finally:
            signal.signal(signal.SIGTERM, before)

    def wait(self) -> None:
        """Return when every process has come here."""
        self.sum(torch.zeros(1))

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Let the leader through the block before the others, which find what it has made."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return every ``size``-th of ``items``: those that fall to this process."""
        return items if self.size == 1 else items[self.rank :: self.size]

    def sum(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over all processes."""
        if self.connected:
            with self._together():
                distributed.all_reduce(tensor)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradients of ``parameters`` by their sums; none counts as zeros."""
        if not self.connected:
            return
        trained = [p for p in parameters if p.requires_grad]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = torch.cat([part.flatten() for part in parts])
        self.sum(flat)
        for parameter, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
            parameter.grad = part.view_as(parameter)

    def copy_leaders(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite ``tensors`` with the leader's."""
        if self.connected:
            with self._together():
                for tensor in tensors:
                    distributed.broadcast(tensor, src=0)

    def leaders(self, item: T) -> T:
        """Return the leader's ``item``."""
        if not self.connected:
            return item
        box: list[Any] = [item]
        with self._together():
            distributed.broadcast_object_list(box, src=0)
        found: T = box[0]
        return found

    def gather(self, item: T) -> list[T]:
        """Return the ``item`` of every process, by rank."""
        if not self.connected:
            return [item]
        found: list[Any] = [None] * self.size
        with self._together():
            distributed.all_gather_object(found, item)
        return found

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # gloo's and NCCL's are of no narrower class
            raise UserError(
                "another process stopped or cannot be reached, and so this one stops; what the "
                "other printed says why. The same command goes on from the last checkpoint."
            ) from error

    def _stop(self, *_: object) -> None:
        raise UserError(
            "it was told to stop, because another process stopped or its machine is wanted "
            "elsewhere. The same command goes on from the last checkpoint."
        )


ALONE = Processes()
