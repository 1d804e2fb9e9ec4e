"""Where MAC-Net compares features: queries, their most similar neighbours, hard negatives (paper, section 2.3).

A place is the flat index row * W + column of a position in a feature map (B, C, H, W). Places of a window that lie
outside of the image are marked, never wrapped round and never repeated. Everything is gathered for all queries at once,
on any device; random numbers come from the generator that is passed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def draw_queries(
    count: int, n_places: int, generator: torch.Generator, body: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Draw different places at random, one set for the whole batch.

    With `body`, places are drawn where any image of the batch shows the patient, and count only for the images that
    do: one set for the batch is the implementation's, body only is the paper's, and places where every image has body
    would leave out the rim of most patients. A batch with fewer than two such places is all background: then places
    are drawn everywhere.

    Args:
        count: places to draw; fewer where there are fewer.
        n_places: places of the map.
        generator: source of the random numbers.
        body: (B, n_places) bool, where each image shows the patient; None: everywhere.

    Returns:
        The places (N,), on the device of `body` or else of the generator; and (B, N) bool, for which images each
        counts, or None where all count.
    """
    if body is not None and len(where := body.any(0).nonzero().flatten()) >= 2:
        drawn = torch.randperm(len(where), generator=generator, device=generator.device)[:count]
        places = where[drawn.to(where.device)]
        return places, body[:, places]
    places = torch.randperm(n_places, generator=generator, device=generator.device)[:count]
    return (places if body is None else places.to(body.device)), None


def windows(queries: torch.Tensor, shape: Sequence[int], side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The square round each query, without the query, row by row.

    Args:
        queries: (N,) places.
        shape: (H, W) of the map.
        side: of the square, odd.

    Returns:
        Places (N, K) and inside (N, K) bool, K = side^2 - 1; a place that is not inside must not be used.
    """
    h, w = shape
    axis = torch.arange(side, device=queries.device) - side // 2
    offsets = torch.cartesian_prod(axis, axis)
    centre = side * side // 2
    down, right = torch.cat((offsets[:centre], offsets[centre + 1 :])).unbind(1)
    rows = (queries // w)[:, None] + down
    columns = (queries % w)[:, None] + right
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    return rows.clamp(0, h - 1) * w + columns.clamp(0, w - 1), inside


def draw_candidates(
    places: torch.Tensor, inside: torch.Tensor, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw different places from those inside, at random for each query; all where there are fewer.

    Args:
        places: (N, K).
        inside: (N, K) bool.
        count: places to draw for each query, at most K.
        generator: source of the random numbers.

    Returns:
        Places and inside of the drawn ones, (N, count).
    """
    keys = torch.rand(places.shape, generator=generator, device=generator.device).to(places.device)
    drawn = keys.masked_fill(~inside, -1).topk(count, dim=1).indices
    return places.gather(1, drawn), inside.gather(1, drawn)


def take(features: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Features (B, C, H, W) at places (N, K) or, one set for each image, (B, N, K) -> (B, N, K, C), fp32 at least.

    Follows both NCHW and channels-last maps without copying them.
    """
    pixels = features.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H*W, C), a view of either memory format
    image = torch.arange(len(pixels), device=features.device)[:, None, None]
    taken = pixels[image, places]
    return taken.to(torch.promote_types(taken.dtype, torch.float32))


@torch.no_grad()
def most_similar(
    features: torch.Tensor, queries: torch.Tensor, places: torch.Tensor, inside: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The places with the highest cosine similarity (eq. 2) to the query, for each query and each image.

    Args:
        features: (B, C, H, W).
        queries: (N,) places.
        places: (N, K), to choose from; of equally similar ones the first are taken.
        inside: (N, K) bool.
        count: places to choose.

    Returns:
        Places and inside of the chosen ones, (B, N, min(count, K)), the most similar first; where a query has fewer
        places, the last are outside.
    """
    similarity = F.cosine_similarity(take(features, queries[:, None]), take(features, places), dim=-1)  # (B, N, K)
    similarity = similarity.masked_fill(~inside, -torch.inf)
    order = similarity.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return places.expand_as(similarity).gather(-1, order), inside.expand_as(similarity).gather(-1, order)
