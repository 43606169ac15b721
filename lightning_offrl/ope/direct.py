"""Direct methods: a value function or a model of the environment is fitted to the data and asked for V(s0).

No product of importance weights, so little variance; a bias that nothing in the estimate itself bounds. Linear
(`lstd`) and model-based (`model_rollouts`) ones are here by name; fitted Q evaluation is `lightning_offrl.ope.fqe`,
density ratios are `lightning_offrl.ope.dice`, and values corrected by them `lightning_offrl.ope.double_reinforcement`.
"""

from lightning_offrl.ope.direct_estimate import DirectEstimate as DirectEstimate
from lightning_offrl.ope.lstd import lstd as lstd
from lightning_offrl.ope.model_based import model_rollouts as model_rollouts

__all__ = ["DirectEstimate", "lstd", "model_rollouts"]
