"""Shape-texture mixing over the batches of all processes: styles travel, images do not."""

import torch
import torch.distributed as dist

from .mix import ShapeTextureMix, draw_partners


class GlobalMix(ShapeTextureMix):
    """Draws partners from the batches of all processes of a run, as one process with the whole batch would.

    Image i of process r has the number i · processes + r in the global batch, as samplers that deal the images out one
    by one have it. Every process draws the same permutation of the global batch, from generators that were seeded
    alike. Encoding and decoding stay where the image is; what is sent for each image whose partner is elsewhere is its
    partner's style: 4 kB with `adain_vgg19`, 115 kB with `adain_lite`, of 600 kB for an image of 224×224 pixels.

    Args: as in `ShapeTextureMix`; `generator` must be in the same state in all processes.
    """

    def sample(self, batch_size: int) -> torch.Tensor:
        """Return partners in the global batch, a [processes · B] int64 tensor on the CPU, for B images a process.

        Raises:
            DebiasError: a global batch of fewer than two images.
        """
        return draw_partners(batch_size * _world_size(), self.generator)

    @torch.no_grad()
    def apply(
        self, images: torch.Tensor, labels: torch.Tensor, partners: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stylise the images [B, 3, H, W] of this process and fetch the labels of their partners.

        All processes call it together, with as many images each.

        Args:
            images: In [0, 1].
            labels: [B] or [B, C].
            partners: What `sample` drew. Those of this batch alone, [B], are taken from it, without other processes.

        Returns:
            Stylised images, [B, 3, H, W], not clamped, and the textures' labels, of the shape of `labels`.
        """
        if len(partners) == len(images):
            return super().apply(images, labels, partners)
        self.stylizer.to(images.device)
        exchange = _Exchange(partners, len(images))
        stylised = self.stylizer.mix_by(images.float(), exchange, self.alpha)
        return stylised.to(images.dtype), exchange(labels)


class _Exchange:
    """Gives each process the rows that its images want of tensors whose rows lie with all processes."""

    def __init__(self, partners: torch.Tensor, batch_size: int) -> None:
        world_size, rank = _world_size(), dist.get_rank()
        grid = partners.view(batch_size, world_size)  # Row i, column r: the partner of image i of process r.
        holders, rows = grid % world_size, grid // world_size
        wanted = [rows[holders[:, other] == rank, other] for other in range(world_size)]
        self.send = torch.cat(wanted)
        self.send_counts = [len(part) for part in wanted]
        own = holders[:, rank]
        self.receive_counts = torch.bincount(own, minlength=world_size).tolist()
        # What arrives is sorted by process; this is where it belongs.
        self.places = own.argsort(stable=True)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the wanted rows, [B, …], for this process's rows [B, …]."""
        outgoing = tensor[self.send.to(tensor.device)].contiguous()
        incoming = torch.empty_like(tensor, memory_format=torch.contiguous_format)
        dist.all_to_all_single(incoming, outgoing, self.receive_counts, self.send_counts)
        result = torch.empty_like(incoming)
        result[self.places.to(tensor.device)] = incoming
        return result


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
