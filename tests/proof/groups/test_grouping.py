import torch
from hypothesis import given
from hypothesis import strategies as st

from crossproof.proof.groups.find import anchored_dictionary, doubling_bands, learn_dictionary
from crossproof.proof.groups.grouping import blocks_by_largest, group_of_windows
from tests.proof.groups.models import windows


def decode(dictionary):
    return (dictionary["codes"][..., None] * dictionary["dictionary"][dictionary["support"]]).sum(2) + dictionary[
        "bias"
    ]


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(2, 4))
def test_any_labels_partition_all_windows_by_last_token_largest_token_and_bands(seed, vocabulary, context):
    labels = torch.randint(-3, 4, (vocabulary, vocabulary), generator=torch.Generator().manual_seed(seed))
    group = group_of_windows(labels, context)
    blocks = [block for its in blocks_by_largest(labels, context) for block in its]
    sizes = torch.cat([block.sizes for block in blocks])
    assert torch.equal(group.flatten().bincount(minlength=len(sizes)), sizes)
    assert int(sizes.sum()) == vocabulary**context
    seen = {}
    for window, number in zip(windows(vocabulary, context).tolist(), group.flatten().tolist(), strict=True):
        largest = max(window)
        # the largest token is a band of its own, wherever and however often it stands
        bands = tuple("largest" if token == largest else int(labels[largest, token]) for token in window[:-1])
        key = (window[-1], largest, bands)
        assert seen.setdefault(key, number) == number
    assert len(seen) == len(sizes) == len(set(seen.values()))


def test_bands_double_downwards_from_the_largest():
    bands = doubling_bands(9, 3)
    assert bands[8, :8].tolist() == [0, 0, 0, 0, 0, 1, 1, 2]
    assert bands[2, :2].tolist() == [1, 2]
    assert doubling_bands(9, 1)[8, :8].unique().tolist() == [0]


def test_atoms_for_tokens_and_positions_are_all_of_an_embedding_that_is_their_sum():
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(1, 6, 4, generator=generator) + torch.randn(3, 1, 4, generator=generator)
    assert torch.allclose(decode(anchored_dictionary(embedding)), embedding.double(), atol=1e-6)


def test_a_learned_dictionary_reproduces_embeddings_with_few_features():
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(2, 8, 6, generator=generator)
    learned = learn_dictionary(embedding, features=12, k=4, steps=300)
    assert learned["support"].shape == learned["codes"].shape == (2, 8, 4)
    error = decode(learned) - embedding
    again = learn_dictionary(embedding, features=12, k=4, steps=1)
    assert error.norm() < 0.6 * (decode(again) - embedding).norm()
    # codes are the best for their features: the error is at right angles to them
    along = torch.einsum("tkd,tkid->tki", error, learned["dictionary"][learned["support"]])
    assert along.abs().max() < 1e-6
