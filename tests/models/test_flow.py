"""Flow matching over tokens: does it find what it was shown, and does the order of the elements matter."""

from __future__ import annotations

import pytest
import torch

from voxtal.models.flow import Asked, TokenFlow, flow_loss, follow


def asked(numbers: list[list[int]], counts: list[list[int]]) -> Asked:
    return Asked(torch.tensor(numbers), torch.tensor(counts), torch.zeros(len(numbers), 2))


def trained(steps: int) -> tuple[TokenFlow, torch.Tensor, torch.Tensor, Asked]:
    """Two crystals, CuAu and Cu3Au, each with a code of its own."""
    torch.manual_seed(0)
    flow = TokenFlow(3, 4, 32, 2, properties=1, atoms=4)
    lattice, sites = torch.rand(2, 3) * 2 - 1, torch.rand(2, 2, 4) * 2 - 1
    flow.set_scale(lattice, sites.flatten(0, 1))
    wish = asked([[29, 79], [29, 79]], [[1, 1], [3, 1]])
    often = [part.repeat(16, *[1] * (part.dim() - 1)) for part in flow.standard(lattice, sites)]
    wishes = asked([[29, 79], [29, 79]] * 16, [[1, 1], [3, 1]] * 16)
    optimizer = torch.optim.Adam(flow.parameters(), 3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        flow_loss(flow, *often, wishes, torch.rand(32), torch.randn(32, 3 + 2 * 4)).backward()
        optimizer.step()
    return flow.eval(), lattice, sites, wish


def test_the_way_ends_at_what_was_learned() -> None:
    """From any noise to the codes of the composition that is asked for: else attempts are noise."""
    flow, lattice, sites, wish = trained(300)
    with torch.no_grad():
        for seed in range(3):
            noise = torch.randn(2, 3 + 2 * 4, generator=torch.Generator().manual_seed(seed))
            found_lattice, found_sites = follow(flow, wish, noise, 20)
            assert (found_lattice - lattice).abs().max() < 0.15
            assert (found_sites - sites).abs().max() < 0.15


def test_elements_are_a_set() -> None:
    """Each element's code would depend on where it stands, and rare elements learn nothing from common ones."""
    torch.manual_seed(1)
    flow = TokenFlow(3, 4, 16, 2, properties=1, atoms=4).eval()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    time, lattice, sites = torch.tensor([0.4]), torch.randn(1, 3), torch.randn(1, 2, 4)
    end_lattice, end_sites = flow(time, lattice, sites, asked([[29, 79]], [[1, 2]]))
    turned_lattice, turned_sites = flow(time, lattice, sites.flip(1), asked([[79, 29]], [[2, 1]]))
    torch.testing.assert_close(turned_lattice, end_lattice)
    torch.testing.assert_close(turned_sites.flip(1), end_sites)


def test_places_without_an_element_are_not_seen() -> None:
    """A crystal would depend on how many elements others of its batch have."""
    torch.manual_seed(2)
    flow = TokenFlow(3, 4, 16, 2, properties=1, atoms=4).eval()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    time, lattice, sites = torch.tensor([0.4]), torch.randn(1, 3), torch.randn(1, 2, 4)
    alone = flow(time, lattice, sites, asked([[29, 79]], [[1, 2]]))
    padded = torch.cat([sites, torch.full((1, 1, 4), 7.0)], dim=1)
    filled = flow(time, lattice, padded, asked([[29, 79, 0]], [[1, 2, 0]]))
    torch.testing.assert_close(filled[0], alone[0])
    torch.testing.assert_close(filled[1][:, :2], alone[1])


def test_loss_is_zero_where_the_end_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight would otherwise turn a right guess into an error."""
    flow, lattice, sites, wish = trained(0)
    standard = flow.standard(lattice, sites)
    monkeypatch.setattr(TokenFlow, "forward", lambda *_: standard)
    assert float(flow_loss(flow, *standard, wish, torch.tensor([0.1, 0.9]), torch.randn(2, 11))) == 0.0
