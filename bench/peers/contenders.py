# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""The peers. Each is built for a number of threads, and has run() and result() as intflash has.

A contender's `held` says whether it obeys a switch that keeps it to an instruction set.
"""

import numpy as np


def onnx_options(threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its idle threads would otherwise take time from whoever is measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class OpenVino:
    """The opset's scaled dot product attention, in one stream."""

    held = True  # ONEDNN_MAX_CPU_ISA

    def __init__(self, precision, threads, query, key, value, causal):
        import openvino
        from openvino import opset13

        self.name = f"OpenVINO {precision}"
        self.version = openvino.__version__.split("-")[0]
        inputs = [opset13.parameter(x.shape, np.float32) for x in (query, key, value)]
        attention = opset13.scaled_dot_product_attention(*inputs, causal=causal)
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": precision,
            "ENABLE_CPU_PINNING": False,
        }
        model = openvino.Model([attention], inputs, "attention")
        self.request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
        self.arrays = (query, key, value)
        for index, array in enumerate(self.arrays):
            self.request.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))

    def run(self):
        self.request.infer()

    def result(self):
        return self.request.get_output_tensor(0).data


class OnnxRuntime:
    """MultiHeadAttention; GroupQueryAttention for a causal mask, where it is faster."""

    held = False  # MLAS takes the best instruction set of the CPU, and has no switch

    def __init__(self, threads, query, key, value, causal):
        import onnxruntime

        self.name = "ONNX Runtime f32"
        self.version = onnxruntime.__version__
        self.shape = query.shape
        model = self._grouped(query.shape) if causal else self._multi_head(query.shape)
        self.session = onnxruntime.InferenceSession(
            model, onnx_options(threads), providers=["CPUExecutionProvider"]
        )
        # The operators take [batch, tokens, heads * dim].
        self.feed = {
            name: np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(1, x.shape[2], -1)
            for name, x in (("query", query), ("key", key), ("value", value))
        }
        if causal:
            _, heads, tokens, dim = query.shape
            nothing = np.zeros((1, heads, 0, dim), np.float32)
            self.feed |= {"past_key": nothing, "past_value": nothing}
            self.feed["last_key"] = np.array([tokens - 1], np.int32)
            self.feed["total_tokens"] = np.array([tokens], np.int32)

    def run(self):
        self.out = self.session.run(["out"], self.feed)[0]

    def result(self):
        _, heads, tokens, dim = self.shape
        return self.out.reshape(1, tokens, heads, dim).transpose(0, 2, 1, 3)

    @staticmethod
    def _model(node, inputs, outputs):
        from onnx import helper

        graph = helper.make_graph([node], "attention", inputs, outputs)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets)
        model.ir_version = 10
        return model.SerializeToString()

    @classmethod
    def _multi_head(cls, shape):
        from onnx import TensorProto, helper

        _, heads, tokens, dim = shape
        info = lambda name: helper.make_tensor_value_info(
            name, TensorProto.FLOAT, [1, tokens, heads * dim]
        )
        names = ["query", "key", "value"]
        node = helper.make_node(
            "MultiHeadAttention", names, ["out"], domain="com.microsoft", num_heads=heads
        )
        return cls._model(node, [info(name) for name in names], [info("out")])

    @classmethod
    def _grouped(cls, shape):
        from onnx import TensorProto, helper

        _, heads, tokens, dim = shape
        info = helper.make_tensor_value_info
        row = [1, tokens, heads * dim]
        inputs = [info(name, TensorProto.FLOAT, row) for name in ("query", "key", "value")]
        inputs += [
            info(name, TensorProto.FLOAT, [1, heads, 0, dim]) for name in ("past_key", "past_value")
        ]
        inputs += [info(name, TensorProto.INT32, [1]) for name in ("last_key", "total_tokens")]
        cache = [1, heads, tokens, dim]
        outputs = [info("out", TensorProto.FLOAT, row)]
        outputs += [info(name, TensorProto.FLOAT, cache) for name in ("all_keys", "all_values")]
        node = helper.make_node(
            "GroupQueryAttention",
            [x.name for x in inputs],
            [x.name for x in outputs],
            domain="com.microsoft",
            num_heads=heads,
            kv_num_heads=heads,
        )
        return cls._model(node, inputs, outputs)


class Torch:
    """scaled_dot_product_attention on CPU tensors."""

    held = True  # ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA, MKL_ENABLE_INSTRUCTIONS

    def __init__(self, precision, threads, query, key, value, causal):
        import torch

        self.torch = torch
        self.name = f"PyTorch {precision}"
        self.version = torch.__version__.split("+")[0]
        self.threads = threads
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.tensors = [torch.from_numpy(x).to(dtype) for x in (query, key, value)]
        self.causal = causal
        torch.set_num_threads(threads)

    def run(self):
        with self.torch.inference_mode():
            self.out = self.torch.nn.functional.scaled_dot_product_attention(
                *self.tensors, is_causal=self.causal
            )

    def result(self):
        return self.out.float().numpy()
