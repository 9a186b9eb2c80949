"""One training on several GPUs or computers: `torchrun --nproc-per-node 2 -m course_lib.distributed AE`.

Every process holds the whole detector and takes its share of each batch; the gradients are averaged before each
update, so all processes make the same one. With n processes and batches of B, each sees B / n images a step, and
together they see the very batch that `training.fit` would give to one process.

How gradients are averaged depends on the detector. One that only defines `training_losses` runs inside PyTorch's
DistributedDataParallel, which sends gradients while others are still being computed. One with a `training_step` of its
own calls `backward` where it likes, several times a step; there all gradients that an optimizer is about to use are
averaged just before its `step`.

Batch normalisation takes its means and variances over the whole batch, all processes' shares together: they tell one
another, forwards and backwards.

What is equal to one process, and what is not. Losses are means over images, so for a step without random numbers
(auto-encoders) losses and weights are equal up to rounding. Random numbers depend on (seed, step, process): the noise
of VAEs, denoisers, diffusion and adversarial methods is other noise than one process would draw, though of the same
distribution. A detector that sets weights or buffers from the images that it happens to see (a codebook of moving
averages, a centre, ranges, a first batch that initialises) would become another detector in each process: that is
refused, in most cases after the first step. So is a detector that is fitted in closed form, which has nothing to share.
"""

from course_lib.distributed.group import process_group
from course_lib.distributed.training import train

__all__ = ["process_group", "train"]
