"""Which of PyTorch's names fastgrad has: `python tests/coverage.py > docs/coverage.md`."""

from __future__ import annotations

import importlib
from typing import Any

import fastgrad
from fastgrad.ops.table import DIFFERS, NOTES

# Title, where to look, names
GROUPS: list[tuple[str, str, str]] = [
    ("Elementwise", "", """
        abs absolute acos acosh add addcdiv addcmul arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin
        asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift
        bitwise_xor ceil clamp clamp_max clamp_min clip copysign cos cosh deg2rad digamma div divide erf erfc
        erfinv exp exp2 expm1 fix float_power floor floor_divide fmax fmin fmod frac gcd heaviside hypot lcm
        ldexp lerp lgamma log log10 log1p log2 logaddexp logaddexp2 logical_and logical_not logical_or
        logical_xor logit maximum minimum mul multiply nan_to_num neg negative nextafter polygamma positive pow rad2deg
        reciprocal remainder round rsqrt rsub sgn sigmoid sign signbit sin sinc sinh sqrt square sub subtract
        tan tanh true_divide trunc where xlogy"""),
    ("Comparisons", "", """
        allclose eq equal ge greater greater_equal gt isclose isfinite isin isinf isnan isneginf isposinf isreal le
        less less_equal lt ne not_equal"""),
    ("Reductions, scans and sorting", "", """
        all amax amin aminmax any argmax argmin argsort bincount corrcoef count_nonzero cov cummax cummin cumprod
        cumsum cumulative_trapezoid diff dist gradient histc kthvalue logcumsumexp logsumexp max mean median min
        mode nanmean nanmedian nanquantile nansum norm prod quantile sort std std_mean sum topk trapezoid trapz
        unique unique_consecutive var var_mean"""),
    ("Shape and index", "", """
        argwhere atleast_1d atleast_2d atleast_3d block_diag broadcast_shapes broadcast_tensors broadcast_to
        bucketize cat chunk column_stack concat diag diag_embed diagonal dsplit dstack expand flatten flip
        fliplr flipud gather hsplit hstack index_add index_copy index_fill index_put index_select masked_fill
        masked_scatter masked_select meshgrid moveaxis movedim mT narrow nonzero permute ravel repeat
        repeat_interleave reshape roll rot90 scatter scatter_add scatter_reduce searchsorted select split
        squeeze stack swapaxes swapdims T take take_along_dim tensor_split tile transpose tril triu unbind
        unflatten unfold unsqueeze view vsplit vstack"""),
    ("Creation and random numbers", "", """
        arange asarray as_tensor bartlett_window bernoulli blackman_window empty empty_like eye from_dlpack from_numpy
        full full_like Generator get_rng_state linspace logspace manual_seed multinomial normal hamming_window
        hann_window ones ones_like rand rand_like randint randint_like randn randn_like randperm set_rng_state tensor
        tril_indices triu_indices zeros zeros_like save scalar_tensor load"""),
    ("Linear algebra", "", """
        addbmm addmm addmv addr baddbmm bmm cdist chain_matmul cholesky cholesky_inverse cholesky_solve cross det
        dot einsum ger inner inverse kron logdet matmul matrix_exp matrix_power mm mv outer pinverse qr slogdet svd
        tensordot trace vander vdot"""),
    ("linalg", "linalg", """
        cholesky cond cross det diagonal eigh eigvalsh inv lstsq matmul matrix_exp matrix_norm matrix_power
        matrix_rank multi_dot norm pinv qr slogdet solve solve_triangular svd svdvals vecdot vector_norm"""),
    ("nn.functional", "nn.functional", """
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d alpha_dropout avg_pool1d
        avg_pool2d avg_pool3d batch_norm bilinear channel_shuffle binary_cross_entropy binary_cross_entropy_with_logits
        celu conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d cosine_embedding_loss
        cosine_similarity cross_entropy ctc_loss dropout dropout1d dropout2d dropout3d elu embedding embedding_bag fold
        gaussian_nll_loss gelu glu grid_sample group_norm gumbel_softmax hardshrink hardsigmoid hardswish hardtanh
        hinge_embedding_loss huber_loss instance_norm interpolate kl_div l1_loss layer_norm leaky_relu linear
        local_response_norm log_softmax logsigmoid margin_ranking_loss max_pool1d max_pool2d max_pool3d mish mse_loss
        multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss nll_loss normalize one_hot pad
        pairwise_distance pixel_shuffle pixel_unshuffle poisson_nll_loss prelu relu relu6 rms_norm rrelu
        scaled_dot_product_attention selu sigmoid silu smooth_l1_loss soft_margin_loss softmax softmin softplus
        softshrink softsign tanh tanhshrink threshold triplet_margin_loss triplet_margin_with_distance_loss unfold
        upsample"""),
    ("nn", "nn", """
        AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool1d AdaptiveMaxPool2d AlphaDropout AvgPool1d AvgPool2d
        AvgPool3d BatchNorm1d BatchNorm2d BatchNorm3d BCELoss BCEWithLogitsLoss Bilinear CELU ChannelShuffle
        ConstantPad1d ConstantPad2d Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d
        CosineEmbeddingLoss CosineSimilarity CrossEntropyLoss CTCLoss Dropout Dropout1d Dropout2d Dropout3d ELU
        Embedding EmbeddingBag Flatten Fold GaussianNLLLoss GELU GLU GroupNorm GRU GRUCell Hardshrink Hardsigmoid
        Hardswish Hardtanh HingeEmbeddingLoss HuberLoss Identity InstanceNorm1d InstanceNorm2d KLDivLoss L1Loss
        LayerNorm LazyLinear LeakyReLU Linear LocalResponseNorm LogSigmoid LogSoftmax LSTM LSTMCell MarginRankingLoss
        MaxPool1d MaxPool2d MaxPool3d Mish Module ModuleDict ModuleList MSELoss MultiheadAttention MultiLabelMarginLoss
        MultiLabelSoftMarginLoss MultiMarginLoss NLLLoss PairwiseDistance Parameter ParameterDict ParameterList
        PixelShuffle PixelUnshuffle PoissonNLLLoss PReLU ReflectionPad1d ReflectionPad2d ReLU ReLU6 ReplicationPad2d
        RMSNorm RNN RNNCell RReLU SELU Sequential Sigmoid SiLU SmoothL1Loss SoftMarginLoss Softmax Softmax2d Softmin
        Softplus Softshrink Softsign Tanh Tanhshrink Threshold Transformer TransformerDecoder TransformerDecoderLayer
        TransformerEncoder TransformerEncoderLayer TripletMarginLoss TripletMarginWithDistanceLoss Unflatten Unfold
        Upsample UpsamplingBilinear2d UpsamplingNearest2d ZeroPad1d ZeroPad2d"""),
    ("nn.Module", "nn.Module", """
        add_module apply bfloat16 buffers children cpu cuda double eval extra_repr float forward get_buffer
        get_parameter get_submodule half load_state_dict modules named_buffers named_children named_modules
        named_parameters parameters register_buffer register_forward_hook register_forward_pre_hook
        register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
        register_module register_parameter register_state_dict_pre_hook requires_grad_ share_memory state_dict to
        to_empty train type zero_grad"""),
    ("Methods of Tensor", "Tensor", """
        abs_ add_ addcdiv_ addcmul_ addmm_ apply_ backward bfloat16 bool byte ceil_ clamp_ clamp_max_ clamp_min_ clone
        contiguous copy_ cos_ cpu cuda cumprod_ cumsum_ data data_ptr detach detach_ device dim div_ double dtype
        element_size eq_ exp_ expand_as exponential_ fill_ fill_diagonal_ float floor_ grad grad_fn half index_add_
        index_copy_ index_fill_ index_put_ int is_contiguous is_cpu is_leaf is_nonzero is_signed item itemsize lerp_
        log_ logical_and_ long lt_ map_ masked_fill_ masked_scatter_ mul_ nan_to_num_ nbytes ndim neg_ new_empty
        new_full new_ones new_tensor new_zeros normal_ numel numpy pin_memory pow_ random_ register_hook
        register_post_accumulate_grad_hook relu_ repeat requires_grad requires_grad_ reshape_as resize_ retain_grad
        retains_grad round_ scatter_ scatter_add_ shape short sigmoid_ size sqrt_ square_ squeeze_ storage_offset
        stride sub_ t_ tanh_ to tolist transpose_ tril_ triu_ type type_as unfold uniform_ unsqueeze_ view_as zero_"""),
    ("nn.utils", "nn.utils", """
        clip_grad_norm_ clip_grad_value_ get_total_norm parameters_to_vector spectral_norm vector_to_parameters
        weight_norm"""),
    ("nn.utils.rnn", "nn.utils.rnn", """
        pack_padded_sequence pack_sequence PackedSequence pad_packed_sequence pad_sequence unpack_sequence
        unpad_sequence"""),
    ("nn.init", "nn.init", """
        calculate_gain constant_ dirac_ eye_ kaiming_normal_ kaiming_uniform_ normal_ ones_ orthogonal_ sparse_
        trunc_normal_ uniform_ xavier_normal_ xavier_uniform_ zeros_"""),
    ("optim", "optim", """
        Adadelta Adafactor Adagrad Adam Adamax AdamW ASGD LBFGS NAdam Optimizer RAdam RMSprop Rprop SGD SparseAdam"""),
    ("optim.lr_scheduler", "optim.lr_scheduler", """
        ChainedScheduler ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR
        LambdaLR LinearLR LRScheduler MultiplicativeLR MultiStepLR OneCycleLR PolynomialLR ReduceLROnPlateau
        SequentialLR StepLR"""),
    ("optim.swa_utils", "optim.swa_utils", """
        AveragedModel get_ema_avg_fn get_ema_multi_avg_fn get_swa_avg_fn get_swa_multi_avg_fn SWALR update_bn"""),
    ("distributions", "distributions", """
        Bernoulli Beta Categorical Distribution Gamma Independent kl_divergence MultivariateNormal Normal Poisson
        Uniform"""),
    ("utils.data", "utils.data", """
        BatchSampler ChainDataset ConcatDataset DataLoader Dataset default_collate IterableDataset random_split
        RandomSampler Sampler SequentialSampler Subset SubsetRandomSampler TensorDataset WeightedRandomSampler"""),
    ("autograd", "autograd", "backward detect_anomaly Function grad gradcheck gradgradcheck set_detect_anomaly"),
    ("Context of autograd.Function", "autograd.function.FunctionCtx", """
        mark_dirty mark_non_differentiable needs_input_grad save_for_backward saved_tensors set_materialize_grads"""),
    ("autograd.function", "autograd.function", "once_differentiable"),
    ("autograd.graph", "autograd.graph", """
        get_gradient_edge increment_version Node register_multi_grad_hook save_on_cpu saved_tensors_hooks"""),
    ("autograd.functional", "autograd.functional", "hessian hvp jacobian jvp vhp vjp"),
    ("func", "func", "functional_call grad grad_and_value hessian jacfwd jacrev jvp vjp vmap"),
    ("random", "random", "fork_rng get_rng_state initial_seed manual_seed seed set_rng_state"),
    ("Settings, limits and devices", "", """
        can_cast device finfo get_default_dtype get_num_threads iinfo promote_types result_type set_default_dtype
        set_num_threads set_printoptions"""),
    ("Modes and checkpoints", "", "enable_grad inference_mode is_grad_enabled no_grad set_grad_enabled"),
    ("testing", "testing", "assert_close"),
    ("utils.checkpoint", "utils.checkpoint", "checkpoint checkpoint_sequential"),
]  # fmt: skip

HEAD = """\
# What there is of PyTorch

Written by `python tests/coverage.py > docs/coverage.md`. What is there is compared with PyTorch, in values, shapes,
dtypes, errors, gradients and second derivatives, by `tests/test_torch.py` and the tests of `nn` and `optim`. Where it
differs on purpose, this page says how. `tests/programs/` holds whole scripts that run on either library.
"""


def find(space: str, name: str) -> Any:
    """The thing of that name, or None. Of the first level, a method of Tensor counts too."""
    places: list[Any] = []
    module, _, kind = space.rpartition(".") if space.rpartition(".")[2][:1].isupper() else (space, "", "")
    try:
        place = importlib.import_module(f"fastgrad.{module}" if module else "fastgrad")
    except ImportError:
        return None
    places.append(getattr(place, kind) if kind else place)
    if not space:
        places.append(fastgrad.Tensor)
    return next((getattr(place, name) for place in places if hasattr(place, name)), None)


def page() -> str:
    lines = [*HEAD.splitlines(), ""]
    for title, space, names in GROUPS:
        names_ = sorted(names.split(), key=str.lower)
        there = [name for name in names_ if find(space, name) is not None]
        missing = [name for name in names_ if name not in there]
        how = DIFFERS | NOTES
        differs = [(name, how[key]) for name in there
                   for key in ({name, f"{space}_{name}"} if space else {name}) if key in how]  # fmt: skip
        lines += [f"## {title}", "", f"{len(there)} of {len(names_)}.", ""]
        if there:
            lines += ["Yes: " + ", ".join(f"`{name}`" for name in there) + ".", ""]
        lines += [f"Differs: `{name}`: {text}." for name, text in sorted(differs)] + ([""] if differs else [])
        if missing:
            lines += ["No: " + ", ".join(f"`{name}`" for name in missing) + ".", ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
