"""Token and channel mixers: what each attention reads, which of them have heads, and the kernels of the convolutions."""

from __future__ import annotations

# Operands of each attention. SDSA-1 to SDSA-4: Meta-SpikeFormer (Yao et al., ICLR 2024); SDSA-3 is Spikformer's SSA. token_qk and
# channel_qk: QKFormer (Zhou et al., NeurIPS 2024). e_sdsa: E-SpikeFormer (Yao et al., TPAMI 2025). The equations are in
# autospike.nn.attention.
OPERANDS: dict[str, tuple[str, ...]] = {
    "sdsa_1": ("q", "k", "v"),
    "sdsa_1_dilated": ("q", "k", "v"),
    "sdsa_2": ("q", "v"),
    "sdsa_3": ("q", "k", "v"),
    "sdsa_4": ("q", "k", "v"),
    "token_qk": ("q", "k"),
    "channel_qk": ("q", "k"),
    "e_sdsa": ("q", "k", "v"),
}
# Attentions whose result depends on the number of heads. The others treat each channel independently.
WITH_HEADS = frozenset({"sdsa_1_dilated", "sdsa_3", "sdsa_4", "token_qk", "e_sdsa"})
# Attentions whose projections may be linear layers, RepConvs or RepLinears. In E-SDSA values have another width, and there are no
# biases.
WITH_PROJECTION_TYPES = frozenset(OPERANDS) - {"e_sdsa"}
E_SDSA_EXPANSION = 4  # width of the values of E-SDSA, as a multiple of the stage's; published code

# Separable convolutions whose layers all read spikes (E-SpikeFormer), and depthwise convolutions (Max-Former; Fang et al., NeurIPS
# 2025): height and width of the kernel. Meta-SpikeFormer's `sepconv` has one layer of neurons less.
SPIKING_SEPCONVS = {"spiking_sepconv_3": 3, "spiking_sepconv_7": 7}
DEPTHWISE = {"dwc_3": 3, "dwc_5": 5, "dwc_7": 7}
SEPCONV_EXPANSION, SEPCONV_KERNEL_SIZE = 2, 7  # published code of Meta-SpikeFormer; the expansion also of E-SpikeFormer

# Hidden width of a RepLinear as a multiple of the stage's width, in an attention and as a channel mixer; published code of the
# large forms of E-SpikeFormer.
REPLINEAR_EXPANSION, CHANNEL_REPLINEAR_EXPANSION = 1.5, 1.0

# Channel mixers whose hidden width is a gene. In the others it is the width of the stage.
WITH_MLP_RATIO = frozenset({"mlp", "conv"})
