"""Training objectives, one per file: what one step does. Importing this package loads no torch.

A file NAME.py has a function `make(setup) -> objective`, which learner.OBJECTIVES names; `objective` in the settings
chooses it. `setup` (setup.py) holds the denoiser, its optimiser, all settings, and how a gradient step is taken.
An objective is any object with

    parts: dict[str, nn.Module | torch.optim.Optimizer]
        What it has besides the denoiser and the denoiser's optimiser: critics, MAC-Net, their optimisers. All of it is
        saved in checkpoints by these names and restored by `load_state_dict`. The learning rate that an optimiser is
        made with is where its cosine schedule starts; the learner moves it.
    step(ldct, ndct, generator) -> dict[str, float]
        One step on a batch, (B, 1, H, W) fp32 in unit range on `setup.device`: every network has moved afterwards.
        Returns numbers for the log, "loss" (the denoiser's) among them. Chance comes from `generator` alone, which
        lies on the CPU and is part of the checkpoints; nothing else that the next step depends on may live in the
        objective outside of `parts`, or a resumed training would be another one.
        Raises NotFiniteError, from `setup.descend`, before a weight was changed.
"""
