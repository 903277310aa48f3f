"""A pass that lets operators of hubflow's own compute an image network, on pixels in bfloat16 from layer to layer."""

from typing import Any

from hubflow.programs.kernels import run_kernel
from hubflow.runtime.paddle_import import paddle

RELU, ADD, NORM = "pd_op.relu", "pd_op.add", "pd_op.batch_norm_"


def compute_in_pixels(program: Any, threads: int) -> int:
    """Put operators of hubflow's own in place of those of an image network; how many were taken out.

    A batch norm takes the ReLU that follows it, and the sum with a shortcut between them, into one operator. Between operators
    that it knows, images stay pixels `[batch, height, width, channels]` in bfloat16; others (convolutions of groups, pools that
    average, other activations) take and give images in float32 as before. To be called before gradients are added.

    Args:
        program: of images `[batch, channels, height, width]`, float32.
        threads: each operator is shared out among so many.
    """
    with paddle.static.program_guard(program):
        return _Pixels(program.global_block(), threads).replace()


def add_pixels(program: Any, threads: int) -> None:
    """Let an operator of hubflow's own add up slopes that came to the same pixels: Paddle's does it in one thread."""
    for op in program.global_block().ops:
        if op.name() != "pd_op.add_n" or op.result(0).dtype != paddle.base.core.DataType.BFLOAT16:
            continue
        combined = op.operand_source(0).get_defining_op()
        with paddle.static.program_guard(program):
            paddle.pir.set_insertion_point(op)
            op.result(0).replace_all_uses_with(run_kernel("hubflow_add", combined.operands_source(), threads))
        op.erase()
        combined.erase()


class _Pixels:
    """The pass at work on a block."""

    def __init__(self, block: Any, threads: int) -> None:
        self._block, self._threads = block, threads
        self._pixels: dict[int, Any] = {}  # in place of the first result of an operator
        self._beside: dict[int, Any] = {}  # of images that there are too
        self._waiting: dict[int, Any] = {}  # batch norms that nothing has asked for yet

    def replace(self) -> int:
        """Go through the operators in order; what is left without users is taken out."""
        ops = self._block.ops
        for op in ops:
            paddle.pir.set_insertion_point(op)
            made = self._made(op)
            if made is not None:
                self._pixels[op.id()] = made
            elif not self._waits(op):
                self._give_images(op)
        before = len(self._block.ops)
        for op in reversed(ops):
            if (op.id() in self._pixels or op.id() in self._waiting) and all(one.use_empty() for one in op.results()):
                op.erase()
        return before - len(self._block.ops)

    def _made(self, op: Any) -> Any:
        """What an operator of ours gives in place of `op`, or None where there is none."""
        if op.name() == "pd_op.conv2d" and _is_plain(op.attrs()):
            attributes, (images, filters) = op.attrs(), op.operands_source()
            pixels = self._as_pixels(images)
            asked = (not images.stop_gradient, not filters.stop_gradient)
            by_tap = run_kernel("hubflow_by_tap", filters, self._threads)
            by_tap.stop_gradient = True
            sizes = (attributes["strides"][0], attributes["paddings"][0], self._threads)
            return run_kernel("hubflow_convolution", pixels, filters, by_tap, *sizes, *asked)
        if op.name() == "pd_op.pool2d" and self._is_known(op.operand_source(0)) and (size := _max_pool_of(op)):
            return run_kernel("hubflow_max_pool", self._as_pixels(op.operand_source(0)), *size, self._threads)
        if op.name() == RELU and (parts := self._parts_of(op.operand_source(0))):
            return self._normalised(*parts, is_positive=True)
        return None

    def _waits(self, op: Any) -> bool:
        """Whether `op` is left to what follows it: a batch norm of pixels, or the sum of one with a shortcut before a ReLU."""
        if op.name() == NORM and self._is_known(op.operand_source(0)) and op.attrs()["data_format"] == "NCHW":
            self._waiting[op.id()] = op
            return True
        if op.name() == ADD and (user := _only_user(op)) is not None and user.name() == RELU and self._parts_of(op.result(0)):
            self._waiting[op.id()] = op
            return True
        return False

    def _parts_of(self, value: Any) -> tuple[Any, Any] | None:
        """The batch norm that gives `value` to one operator alone, and the shortcut that is added to it, if any."""
        maker = value.get_defining_op()
        if maker is None or _only_user(maker) is None:
            return None
        if maker.id() in self._waiting and maker.name() == NORM:
            return maker, None
        if maker.name() != ADD or tuple(maker.operand_source(0).shape) != tuple(maker.operand_source(1).shape):
            return None
        for norm, other in (maker.operands_source(), reversed(maker.operands_source())):
            own = norm.get_defining_op()
            if own.id() in self._waiting and own.name() == NORM and _only_user(own) is not None:
                return own, other
        return None

    def _normalised(self, norm: Any, other: Any, is_positive: bool) -> Any:
        attributes = norm.attrs()
        images, mean, variance, scale, bias = norm.operands_source()
        beside = [] if other is None else [self._as_pixels(other)]
        return run_kernel(
            "hubflow_batch_norm" if other is None else "hubflow_join",
            *(self._as_pixels(images), scale, bias, *beside, mean, variance),
            *(attributes["epsilon"], attributes["momentum"]),
            not (attributes["is_test"] or attributes["use_global_stats"]),
            is_positive,
            self._threads,
        )

    def _is_known(self, images: Any) -> bool:
        """Whether there are, or will be, pixels of `images`."""
        maker = images.get_defining_op()
        known = (self._pixels, self._waiting, self._beside)
        return maker is not None and any(maker.id() in one for one in known) and maker.result(0).is_same(images)

    def _as_pixels(self, images: Any) -> Any:
        maker = images.get_defining_op()
        if maker.id() in self._waiting and maker.id() not in self._pixels:
            self._pixels[maker.id()] = self._normalised(maker, None, is_positive=False)
        if maker.id() not in self._pixels and maker.id() not in self._beside:
            self._beside[maker.id()] = run_kernel("hubflow_to_pixels", images, self._threads)
        return (self._pixels if maker.id() in self._pixels else self._beside)[maker.id()]

    def _give_images(self, op: Any) -> None:
        """Let `op` have images where there are pixels."""
        for images in op.operands_source():
            if not self._is_known(images) or images.get_defining_op().id() in self._beside:
                continue
            pixels = self._as_pixels(images)
            given = run_kernel("hubflow_from_pixels", pixels, images.shape[1], self._threads)
            images.replace_all_uses_with(given)
            self._beside[given.get_defining_op().id()] = pixels


def _only_user(op: Any) -> Any:
    """The operator that takes the first result, where it is one and takes it once."""
    users = op.result(0).all_used_ops()
    return users[0] if len(users) == 1 else None


def _is_plain(attributes: dict[str, Any]) -> bool:
    """Whether a convolution has one stride and one padding, no groups and no holes."""
    return (
        len(set(attributes["strides"])) == len(set(attributes["paddings"])) == 1
        and set(attributes["dilations"]) == {1}
        and attributes["groups"] == 1
        and attributes["padding_algorithm"] == "EXPLICIT"
        and attributes["data_format"] == "NCHW"
    )


def _max_pool_of(op: Any) -> tuple[int, int, int] | None:
    """Size, stride and padding of a pool that takes the largest of square windows; None for others."""
    attributes = op.attrs()
    size = op.operand_source(1).get_defining_op().attrs().get("value", [])
    is_known = (
        attributes["pooling_type"] == "max"
        and not (attributes["global_pooling"] or attributes["adaptive"] or attributes["ceil_mode"])
        and attributes["padding_algorithm"] == "EXPLICIT"
        and attributes["data_format"] == "NCHW"
        and len(set(size)) == len(set(attributes["strides"])) == len(set(attributes["paddings"])) == 1
    )
    return (size[0], attributes["strides"][0], attributes["paddings"][0]) if is_known else None
