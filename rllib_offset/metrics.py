"""Keys of the metrics that this package adds to RLlib's results.

Nested keys are tuples, as RLlib's ``MetricsLogger`` takes them; TensorBoard joins them with ``/``.
"""

# The three to watch, under a name that TensorBoard sorts before all others.
AT_A_GLANCE = "at_a_glance"
TRUTH = "truth"  # return in the slow simulator, of the latest evaluation
PROMISE = "promise"  # return of the same agent and starts in fast + offset
SLOW_STEPS = "slow_steps"  # bought for training so far

# The predictor.
OFFSET = "offset"
LOSS = "loss"
HOLDOUT_MAE = "holdout_mae"
FRESH_ERROR = "fresh_error"  # on new labels before they are fitted, relative to the offset's spread
FRESH_RMSE = "fresh_rmse"  # the same, root mean square in the units of the targets
ENSEMBLE_STD = "ensemble_std"
COVERAGE = "coverage"
DIVERGENCE = "divergence"
IS_FROZEN = "is_frozen"
VERSION = "version"
NUM_LABELS = "num_labels"  # labels held, after invalid and lost ones are left out
OUTSIDE_FRACTION = "outside_fraction"  # corrections outside the labelled region
EXPLOITATION = "exploitation"  # 1.0 while the agent moves where nothing was labelled

# The ledger: what the slow simulator was asked for.
SLOW = "slow"
NUM_ENV_STEPS_LIFETIME = "num_env_steps_lifetime"
NUM_EVAL_ENV_STEPS_LIFETIME = "num_eval_env_steps_lifetime"
NUM_ENV_STEPS_REUSED_LIFETIME = "num_env_steps_reused_lifetime"
NUM_INVALID_LIFETIME = "num_invalid_lifetime"
NUM_REPLAYS_LOST_LIFETIME = "num_replays_lost_lifetime"
SIM_TIME_S_LIFETIME = "sim_time_s_lifetime"
REPLAY_WAIT_S = "replay_wait_s"
UTILIZATION = "utilization"  # share of the workers' time inside the slow simulator

# Timers, beside RLlib's own.
OFFSET_FIT_TIMER = "offset_fit"
OFFSET_BROADCAST_TIMER = "offset_broadcast"
BATCH_TIME_S = "batch_time_s"  # this iteration, evaluation left out
PREDICTED_BATCH_TIME_S = "predicted_batch_time_s"  # what section 3.4 of the paper gives for it

# Evaluation: truth (RLlib's own key, in the slow simulator) and promise (fast + offset).
CORRECTED_EPISODE_RETURN_MEAN = "corrected_episode_return_mean"
FIDELITY_GAP = "fidelity_gap"
NORMALISED_SCORE = "normalised_score"

# Beside RLlib's return while training: the same episodes, uncorrected.
FAST_EPISODE_RETURN_MEAN = "fast_episode_return_mean"
SAMPLING_TIME_S = "sampling_time_s"  # this iteration's batch
