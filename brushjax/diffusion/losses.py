"""Losses of the diffusion and autoencoder objectives, in float32."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def prediction_loss(prediction: Float[Array, " B *S"], target: Float[Array, " B *S"]) -> Array:
    """Mean squared error over everything, with no mask and no timestep weighting.

    Source: BrushNet's training objective; equals the mean of `prediction_errors`.
    """
    return prediction_errors(prediction, target).mean()


def prediction_errors(
    prediction: Float[Array, " B *S"], target: Float[Array, " B *S"]
) -> Float[Array, " B"]:
    """Mean squared error of each sample, at least float32.

    Raises:
        ValueError: the two shapes differ (a silent broadcast would train on the wrong thing).
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"expected the target's shape {target.shape} for the prediction, got {prediction.shape}"
        )
    dtype = jnp.promote_types(jnp.promote_types(prediction.dtype, target.dtype), jnp.float32)
    error = prediction.astype(dtype) - target.astype(dtype)
    return jnp.square(error).mean(axis=tuple(range(1, error.ndim)))


def kl_to_standard_normal(
    mean: Float[Array, " B *S"], logvar: Float[Array, " B *S"]
) -> Float[Array, " B"]:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of each sample in nats, summed over its elements.

    Source: Kingma & Welling 2014, appendix B.
    """
    dtype = jnp.promote_types(mean.dtype, jnp.float32)
    mean, logvar = mean.astype(dtype), logvar.astype(dtype)
    element = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)
    return element.sum(axis=tuple(range(1, element.ndim)))


def min_snr_weights(
    alphas_cumprod: Float[np.ndarray, " T"], prediction_type: str, gamma: int | float
) -> Float[np.ndarray, " T"]:
    """Weight of each timestep's squared error under min-SNR weighting, in float64.

    It is min(SNR, gamma) of the clean latents' error. The noise's error is 1 / SNR of that one, so
    that its weight ends at 1 where SNR is 0; that of v is 1 / (SNR + 1).

    Source: Hang et al. 2023 (arXiv 2303.09556) section 3.4.
    """
    ratio = alphas_cumprod / (1.0 - alphas_cumprod)
    if prediction_type == "epsilon":
        return 1.0 / np.maximum(ratio / gamma, 1.0)
    clipped = np.minimum(ratio, gamma)
    return clipped / (ratio + 1.0) if prediction_type == "v_prediction" else clipped


def timestep_quarters(
    errors: Float[Array, " B"], timestep: Int[Array, " B"], num_timesteps: int
) -> tuple[Float[Array, " 4"], Float[Array, " 4"]]:
    """Sums and counts of per-sample errors in the four quarters of the timesteps.

    Sums of several batches or devices add up; sum / count is each quarter's mean. The first
    quarter holds the cleanest timesteps, whose errors the plain mean hides.

    Returns:
        (sums [4], counts [4]).
    """
    quarter = jnp.clip(timestep * 4 // num_timesteps, 0, 3)
    member = jax.nn.one_hot(quarter, 4, dtype=errors.dtype)  # [B, 4]
    return errors @ member, member.sum(axis=0)
