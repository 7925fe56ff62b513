"""Token mixers: what each attention reads, and which of them have heads."""

from __future__ import annotations

# Operands of each attention. SDSA-1 to SDSA-4: Meta-SpikeFormer (Yao et al., ICLR 2024); SDSA-3 is Spikformer's SSA. token_qk and
# channel_qk: QKFormer (Zhou et al., NeurIPS 2024). The equations are in autospike.nn.attention.
OPERANDS: dict[str, tuple[str, ...]] = {
    "sdsa_1": ("q", "k", "v"),
    "sdsa_1_dilated": ("q", "k", "v"),
    "sdsa_2": ("q", "v"),
    "sdsa_3": ("q", "k", "v"),
    "sdsa_4": ("q", "k", "v"),
    "token_qk": ("q", "k"),
    "channel_qk": ("q", "k"),
}
# Attentions whose result depends on the number of heads. The others treat each channel independently.
WITH_HEADS = frozenset({"sdsa_1_dilated", "sdsa_3", "sdsa_4", "token_qk"})
