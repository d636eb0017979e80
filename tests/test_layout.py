"""Codes as matrices: nothing is lost on the way there and back, and a column is what its name says."""

import pytest
import torch

from vaekit.errors import ConfigError
from vaekit.models.layout import Group, Layout, as_layout

THREE = Layout((Group("coarse", (5,)), Group("middle", (2, 3, 4)), Group("fine", (1, 6, 8))))


def codes_of(layout, *lead):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*lead, *group.event, generator=generator) for group in layout.groups)


@pytest.mark.parametrize("lead", [(7,), (3, 7)])
def test_a_matrix_gives_the_codes_back(lead):
    codes = codes_of(THREE, *lead)
    matrix = THREE.matrix(codes)
    assert matrix.shape == (*lead, 5 + 24 + 48) == (*lead, THREE.width)
    for code, back in zip(codes, THREE.codes(matrix), strict=True):
        assert torch.equal(code, back)


def test_every_column_is_where_its_name_says():
    """A one at a place of a code is the only one in the column of that name."""
    names = [THREE.column(i) for i in range(THREE.width)]
    assert len(set(names)) == THREE.width
    for name, group, place in (
        ("coarse z3", 0, (3,)),
        ("middle channel 1 at 2,3", 1, (1, 2, 3)),
        ("middle channel 0 at 1,0", 1, (0, 1, 0)),
        ("fine channel 0 at 5,7", 2, (0, 5, 7)),
    ):
        codes = [torch.zeros(1, *each.event) for each in THREE.groups]
        codes[group][(0, *place)] = 1
        (column,) = THREE.matrix(codes)[0].nonzero().flatten().tolist()
        assert names[column] == name
    with pytest.raises(IndexError):
        THREE.column(THREE.width)


def test_a_flat_code_has_the_names_that_it_always_had():
    flat = as_layout([(4,)])
    assert [flat.column(i) for i in range(4)] == ["z0", "z1", "z2", "z3"]
    matrix = torch.randn(3, 4)
    assert flat.codes(matrix)[0] is not None and torch.equal(flat.matrix((matrix,)), matrix)


def test_chosen_groups_have_columns_and_the_others_are_left_to_their_prior():
    some = THREE.only(["fine", "coarse"])
    codes = codes_of(THREE, 7)
    matrix = some.matrix(codes)
    assert matrix.shape == (7, 53) and torch.equal(matrix[:, :5], codes[0])  # the model's order, not the caller's
    back = some.codes(matrix)
    assert back[1] is None and torch.equal(back[2], codes[2])
    assert some.column(5) == "fine channel 0 at 0,0"
    with pytest.raises(ConfigError, match="unknown group 'midle'; did you mean 'middle'"):
        THREE.only(["midle"])
    with pytest.raises(ConfigError, match=r"codes are \(2, 5\) but this model decodes \(N, 77\)"):
        THREE.codes(torch.zeros(2, 5))


def test_units_share_out_the_columns_and_sums_stay_sums():
    units = THREE.units
    assert [i for unit in units for i in unit.columns] == list(range(THREE.width))
    assert [unit.name for unit in units[4:8]] == ["coarse z4", "middle channel 0", "middle channel 1", "fine channel 0"]
    values = torch.rand(9, THREE.width, dtype=torch.float64)
    assert torch.allclose(THREE.by_unit(values).sum(-1), values.sum(-1))
    assert torch.allclose(THREE.by_unit(values)[:, 6], THREE.codes(values)[1][:, 1].sum((-2, -1)))


def test_pooling_makes_each_place_a_row_of_its_channels():
    grid = as_layout([(3, 2, 5)])
    (code,) = codes_of(grid, 4)
    rows = grid.pooled(grid.matrix((code,)))
    assert torch.equal(rows.view(4, 2, 5, 3), code.permute(0, 2, 3, 1))
