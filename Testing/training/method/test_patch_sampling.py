"""Queries, neighbours and negatives against loops over rows and columns; borders, corners, ties."""

import math
from collections import Counter

import pytest
import torch

from ASCONTrainingLib.method import patch_sampling


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def a_map(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def naive_window(place, shape, side):
    """Places round one place, in rows; None outside of the image."""
    row, column = divmod(place, shape[1])
    half = (side - 1) // 2
    found = []
    for r in range(row - half, row + half + 1):
        for c in range(column - half, column + half + 1):
            if (r, c) != (row, column):
                found.append(r * shape[1] + c if 0 <= r < shape[0] and 0 <= c < shape[1] else None)
    return found


def naive_cosine(f, g):
    """Equation 2."""
    dot = sum(a * b for a, b in zip(f, g, strict=True))
    return dot / math.sqrt(sum(a * a for a in f)) / math.sqrt(sum(b * b for b in g))


def listed(places, inside):
    """Rows of places as lists, None where outside."""
    return [
        [p if i else None for p, i in zip(*pair, strict=True)]
        for pair in zip(places.tolist(), inside.tolist(), strict=True)
    ]


@pytest.mark.parametrize("side", [3, 7, 13])
@pytest.mark.parametrize("shape", [(9, 14), (14, 9), (2, 2), (1, 5)])
def test_windows_are_those_of_a_loop_at_every_place(shape, side):
    every = torch.arange(shape[0] * shape[1])
    places, inside = patch_sampling.windows(every, shape, side)
    assert listed(places, inside) == [naive_window(place, shape, side) for place in every.tolist()]
    assert places.min() >= 0 and places.max() < shape[0] * shape[1]  # places outside can still be gathered


@pytest.mark.parametrize("place, there", [(0, 15), (3, 27), (10 * 20 + 10, 48), (20 * 20 - 1, 15)])
def test_corners_have_fewer_candidates_than_24(place, there):
    _, inside = patch_sampling.windows(torch.tensor([place]), (20, 20), 7)
    assert inside.sum() == there


def test_take_gathers_what_indexing_gives_in_both_memory_formats():
    features = a_map(2, 3, 4, 5)
    shared = torch.tensor([[0, 19, 7], [6, 6, 2]])
    apart = torch.stack((shared, shared.flip(0)))
    for places, place_of in ((shared, lambda b, n, k: shared[n, k]), (apart, lambda b, n, k: apart[b, n, k])):
        for layout in (torch.contiguous_format, torch.channels_last):
            taken = patch_sampling.take(features.contiguous(memory_format=layout), places)
            assert taken.shape == (2, 2, 3, 3) and taken.dtype == torch.float64
            for b, n, k in ((b, n, k) for b in range(2) for n in range(2) for k in range(3)):
                row, column = divmod(place_of(b, n, k).item(), 5)
                assert torch.equal(taken[b, n, k], features[b, :, row, column])
    assert patch_sampling.take(features.bfloat16(), shared).dtype == torch.float32


def test_take_copies_no_map():
    for layout in (torch.contiguous_format, torch.channels_last):
        features = torch.zeros(2, 3, 4, 5).contiguous(memory_format=layout)
        assert features.permute(0, 2, 3, 1).flatten(1, 2).data_ptr() == features.data_ptr()


def test_gradient_of_take_adds_up_where_a_place_is_taken_twice():
    features = a_map(1, 2, 2, 2).requires_grad_()
    patch_sampling.take(features, torch.tensor([[3, 3, 0]])).sum().backward()
    assert features.grad[0, 0].tolist() == [[1, 0], [0, 2]]


@pytest.mark.parametrize("count", [4, 8, 24, 60])
@pytest.mark.parametrize("side", [3, 7])
def test_most_similar_are_those_of_a_loop(side, count):
    shape = (6, 9)
    features = a_map(2, 5, *shape)
    every = torch.arange(54)
    places, inside = patch_sampling.most_similar(features, every, *patch_sampling.windows(every, shape, side), count)
    assert places.shape == (2, 54, min(count, side**2 - 1))
    for b in range(2):
        pixels = features[b].flatten(1).T.tolist()
        for place, ours in zip(range(54), listed(places[b], inside[b]), strict=True):
            there = [p for p in naive_window(place, shape, side) if p is not None]
            there.sort(key=lambda p: -naive_cosine(pixels[place], pixels[p]))
            assert [p for p in ours if p is not None] == there[:count]
            assert None not in ours[: len(there)]  # those inside come first


def test_of_equally_similar_places_the_first_stay():
    features = torch.ones(1, 4, 5, 5)
    query = torch.tensor([12, 0])
    places, inside = patch_sampling.most_similar(features, query, *patch_sampling.windows(query, (5, 5), 3), 4)
    assert listed(places[0], inside[0]) == [[6, 7, 8, 11], [1, 5, 6, None]]


def test_features_of_length_zero_are_no_obstacle():
    features = torch.zeros(1, 4, 5, 5)
    features[0, :, 2, 3] = 1
    query = torch.tensor([12])
    places, inside = patch_sampling.most_similar(features, query, *patch_sampling.windows(query, (5, 5), 3), 4)
    assert inside.all() and len(set(places.flatten().tolist())) == 4


def test_ranking_leaves_no_gradient():
    features = a_map(1, 2, 4, 4).requires_grad_()
    query = torch.tensor([5])
    places, _ = patch_sampling.most_similar(features, query, *patch_sampling.windows(query, (4, 4), 3), 4)
    assert not places.requires_grad


def test_candidates_are_different_ones_from_inside_at_random():
    query = torch.tensor([0, 10 * 20 + 10])
    places, inside = patch_sampling.windows(query, (20, 20), 7)
    counts = Counter()
    for seed in range(400):
        drawn, drawn_inside = patch_sampling.draw_candidates(places, inside, 12, seeded(seed))
        rows = listed(drawn, drawn_inside)
        for row, there in zip(rows, listed(places, inside), strict=True):
            assert None not in row and len(set(row)) == 12 and set(row) <= set(there)
        counts.update(rows[1])
    assert len(counts) == 48  # each has a chance of 1/4: 100 +- 9
    assert min(counts.values()) > 60 and max(counts.values()) < 140


def test_candidates_are_all_there_where_there_are_fewer():
    places, inside = patch_sampling.windows(torch.tensor([0]), (20, 20), 7)
    (row,) = listed(*patch_sampling.draw_candidates(places, inside, 24, seeded()))
    there = [p for p in listed(places, inside)[0] if p is not None]
    assert sorted(p for p in row if p is not None) == there and len(row) == 24


def test_queries_are_different_places_and_follow_the_generator():
    places, counted = patch_sampling.draw_queries(30, 40, seeded())
    assert counted is None
    assert len(set(places.tolist())) == 30 and set(places.tolist()) <= set(range(40))
    assert torch.equal(places, patch_sampling.draw_queries(30, 40, seeded())[0])
    assert not torch.equal(places, patch_sampling.draw_queries(30, 40, seeded(1))[0])
    state = torch.get_rng_state()
    patch_sampling.draw_queries(30, 40, seeded())
    assert torch.equal(state, torch.get_rng_state())
    assert sorted(patch_sampling.draw_queries(50, 40, seeded())[0].tolist()) == list(range(40))


def test_queries_come_from_the_body_and_count_where_it_is():
    body = torch.zeros(2, 40, dtype=torch.bool)
    body[0, 3:9] = True
    body[1, 7:11] = True
    places, counted = patch_sampling.draw_queries(5, 40, seeded(), body)
    assert len(set(places.tolist())) == 5 and set(places.tolist()) <= set(range(3, 11))
    for i, place in enumerate(places.tolist()):
        assert counted[:, i].tolist() == [3 <= place < 9, 7 <= place < 11]
    assert sorted(patch_sampling.draw_queries(20, 40, seeded(), body)[0].tolist()) == list(range(3, 11))


@pytest.mark.parametrize("left", [0, 1])
def test_a_batch_without_body_is_queried_everywhere(left):
    body = torch.zeros(2, 40, dtype=torch.bool)
    body[0, :left] = True
    places, counted = patch_sampling.draw_queries(30, 40, seeded(), body)
    assert len(places) == 30 and counted is None
