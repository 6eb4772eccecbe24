"""Keys of the metrics that this package adds to RLlib's results.

Nested keys are tuples, as RLlib's ``MetricsLogger`` takes them; TensorBoard joins them with ``/``.
"""

# The three to watch, under a name that TensorBoard sorts before all others.
AT_A_GLANCE = "at_a_glance"  # the group of the three below
TRUTH = "truth"  # return in the slow simulator, of the latest evaluation
PROMISE = "promise"  # return of the same agent and starts in fast + offset
SLOW_STEPS = "slow_steps"  # bought for training so far

# The predictor.
OFFSET = "offset"  # the group of those below
LOSS = "loss"  # of the latest fit, on standardised offsets
HOLDOUT_MAE = "holdout_mae"  # mean absolute error on labels kept out of the fit, targets' units
FRESH_ERROR = "fresh_error"  # on new labels before they are fitted, relative to the offset's spread
FRESH_RMSE = "fresh_rmse"  # the same, root mean square in the units of the targets
ENSEMBLE_STD = "ensemble_std"  # mean spread of the members on labels, in the targets' units
COVERAGE = "coverage"  # share of fresh labels within the 90 % interval
DIVERGENCE = "divergence"  # how far the two simulators' states part on a trajectory
IS_FROZEN = "is_frozen"  # 1.0 while the error is small and labels are only bought to probe it
VERSION = "version"  # broadcasts so far
NUM_LABELS = "num_labels"  # labels held, after invalid and lost ones are left out
EXPLOITATION = "exploitation"  # 1.0 while the agent moves where nothing was labelled

# The ledger: what the slow simulator was asked for.
SLOW = "slow"  # the group of those below
NUM_ENV_STEPS_LIFETIME = "num_env_steps_lifetime"  # slow steps bought for labels
NUM_EVAL_ENV_STEPS_LIFETIME = "num_eval_env_steps_lifetime"  # slow steps bought for evaluation
NUM_ENV_STEPS_REUSED_LIFETIME = "num_env_steps_reused_lifetime"  # known to the label store
NUM_ENV_STEPS_WASTED_LIFETIME = "num_env_steps_wasted_lifetime"  # bought again after a failure
NUM_INVALID_LIFETIME = "num_invalid_lifetime"  # finished with a result that means nothing
NUM_LABELS_LOST_LIFETIME = "num_labels_lost_lifetime"  # steps that no attempt could give
NUM_REPLAYS_LOST_LIFETIME = "num_replays_lost_lifetime"  # requests given up after their last retry
SIM_TIME_S_LIFETIME = "sim_time_s_lifetime"  # seconds inside the slow simulator for labels
REPLAY_WAIT_S = "replay_wait_s"  # seconds that the latest update waited for slow replays
UTILIZATION = "utilization"  # share of the workers' time inside the slow simulator

# Timers, beside RLlib's own.
OFFSET_FIT_TIMER = "offset_fit"  # seconds
OFFSET_BROADCAST_TIMER = "offset_broadcast"  # seconds
BATCH_TIME_S = "batch_time_s"  # of the latest update
PREDICTED_BATCH_TIME_S = "predicted_batch_time_s"  # what section 3.4 of the paper gives for it

# Evaluation: truth (RLlib's own key, in the slow simulator) and promise (fast + offset).
CORRECTED_EPISODE_RETURN_MEAN = "corrected_episode_return_mean"  # the promise
FIDELITY_GAP = "fidelity_gap"  # promise minus truth
NORMALISED_SCORE = "normalised_score"  # 0 for a random agent, 1 for the best possible one

# Beside RLlib's return while training, in `env_runners`.
FAST_EPISODE_RETURN_MEAN = "fast_episode_return_mean"  # of the same episodes, uncorrected
OUTSIDE_FRACTION = "outside_fraction"  # share of corrections outside of the labelled region
SAMPLING_TIME_S = "sampling_time_s"  # of the latest batch
