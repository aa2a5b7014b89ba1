"""BLIP-2's Q-Former and vision tower through the attention switch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Blip2QFormerConfig, Blip2QFormerModel, Blip2VisionConfig, Blip2VisionModel

import streamfer_kernels
from streamfer.captions.loading import transformers_attention
from streamfer.models.attention import AttentionChoice

pytestmark = pytest.mark.skipif(
    streamfer_kernels.backend_report("cpu")["obstacle"] is not None,
    reason="Triton runs on the CPU in its interpreter only (TRITON_INTERPRET=1)",
)
FORCED = AttentionChoice("triton", "test")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Lengths of the queries and keys that the kernels got."""
    seen: list[tuple[int, int]] = []
    original = streamfer_kernels.attention

    def counted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append((q.shape[2], k.shape[2]))
        assert options["backend"] == "triton"
        return original(q, k, v, **options)

    monkeypatch.setattr(streamfer_kernels, "attention", counted)
    return seen


def test_pytorch_keeps_its_name() -> None:
    assert transformers_attention(AttentionChoice("torch", "")) == "sdpa"
    assert transformers_attention(FORCED) == transformers_attention(FORCED) == "streamfer_triton"


def test_the_q_former(calls: list[tuple[int, int]]) -> None:
    config = Blip2QFormerConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, encoder_hidden_size=24,
        cross_attention_frequency=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Blip2QFormerModel(config).eval()
    queries, pictures = torch.randn(2, 4, 32), torch.randn(2, 11, 24)
    with torch.inference_mode():
        model.set_attn_implementation("sdpa")
        expected = model(query_embeds=queries, encoder_hidden_states=pictures).last_hidden_state
        model.set_attn_implementation(transformers_attention(FORCED))
        found = model(query_embeds=queries, encoder_hidden_states=pictures).last_hidden_state
        seen = list(calls)
        # Padded pictures need a mask, which PyTorch keeps.
        mask = torch.ones(2, 11, dtype=torch.long)
        mask[0, 5:] = 0
        masked = model(
            query_embeds=queries, encoder_hidden_states=pictures, encoder_attention_mask=mask
        ).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert sorted(seen) == [(4, 4), (4, 4), (4, 11)]
    assert (4, 11) not in calls[len(seen) :]
    assert not torch.allclose(masked[0], found[0], atol=1e-3)
    torch.testing.assert_close(masked[1], found[1], atol=1e-5, rtol=1e-4)


def test_the_vision_tower(calls: list[tuple[int, int]]) -> None:
    config = Blip2VisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    torch.manual_seed(0)
    model = Blip2VisionModel(config).eval()
    pixels = torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        model.set_attn_implementation("sdpa")
        expected = model(pixels).last_hidden_state
        model.set_attn_implementation(transformers_attention(FORCED))
        found = model(pixels).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert calls == [(5, 5)] * 2
