# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""The peers that decode over a quantized cache, and what it takes to read one.

Each is as intflash_library.Decoding: it says of how many bits its codes are, and is built with
several caches that hold the same tokens. run(index) stores the last token in that cache and attends
it, result() is what the last run gave, and close() gives back what the end of an object does not.
"""

import concurrent.futures

import numpy as np

import contenders


def last_token(array):
    """Of [1, heads, tokens, dim], in C order."""
    return np.ascontiguousarray(array[:, :, -1:])


class OpenVino:
    """Scaled dot product attention over a model's state, which the CPU plugin keeps in u8.

    The state is what a language model of OpenVINO's has: it is gathered by beams, grows by the new
    token, and each of its heads is repeated for the query heads that share it. The plugin makes one
    operator of all that. So a cache has a token more after each run.
    """

    def __init__(self, threads, query, key, value, num_caches):
        import openvino

        self.name, self.bits = "OpenVINO u8", 8
        self.version = openvino.__version__.split("-")[0]
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "KV_CACHE_PRECISION": "u8",
            "ENABLE_CPU_PINNING": False,
        }
        model = self._model(query.shape[1], key.shape[1], key.shape[3])
        compiled = openvino.Core().compile_model(model, "CPU", options)
        earlier = {
            name: openvino.Tensor(np.ascontiguousarray(x[:, :, :-1]))
            for name, x in (("key", key), ("value", value))
        }
        inputs = [query, last_token(key), last_token(value), np.zeros(1, np.int32)]
        self.requests = [compiled.create_infer_request() for _ in range(num_caches)]
        for request in self.requests:
            for state in request.query_state():
                state.state = earlier[state.name]
            for index, array in enumerate(inputs):
                request.set_input_tensor(index, openvino.Tensor(array))

    def close(self):
        pass

    def run(self, index):
        self.last = self.requests[index]
        self.last.infer()

    def result(self):
        return self.last.get_output_tensor(0).data

    @staticmethod
    def _model(heads, kv_heads, dim):
        import openvino
        from openvino import opset13
        from openvino.op.util import Variable, VariableInfo

        tokens = lambda count: openvino.PartialShape([1, count, -1, dim])
        beams = opset13.parameter(openvino.PartialShape([-1]), np.int32)
        inputs = [opset13.parameter(tokens(n), np.float32) for n in (heads, kv_heads, kv_heads)]
        repeated, stored = [], []
        for name, new in (("key", inputs[1]), ("value", inputs[2])):
            info = VariableInfo()
            info.variable_id = name
            info.data_shape = openvino.PartialShape([-1, kv_heads, -1, dim])
            info.data_type = openvino.Type.f32
            variable = Variable(info)
            nothing = opset13.constant(np.zeros((1, kv_heads, 0, dim), np.float32))
            past = opset13.gather(
                opset13.read_value(nothing, variable), beams, opset13.constant(np.int64(0))
            )
            tokens_of_all = opset13.concat([past, new], 2)
            stored.append(opset13.assign(tokens_of_all, variable))
            group = [1, 1, heads // kv_heads, 1, 1]
            groups = opset13.broadcast(
                opset13.unsqueeze(tokens_of_all, opset13.constant(np.array([2]))),
                opset13.constant(np.array(group)),
                broadcast_spec="BIDIRECTIONAL",
            )
            shape = opset13.constant(np.array([0, heads, -1, dim]))
            repeated.append(opset13.reshape(groups, shape, special_zero=True))
        out = opset13.scaled_dot_product_attention(inputs[0], *repeated)
        return openvino.Model([opset13.result(out)], stored, [*inputs, beams], "decoding")


class OnnxRuntime:
    """GroupQueryAttention over INT8, with a scale for each cache or for each channel of a head."""

    def __init__(self, granularity, threads, query, key, value, num_caches):
        import onnxruntime

        self.bits = 8
        self.name = f"ONNX Runtime int8 {granularity.lower().replace('_', ' ')}"
        self.version = onnxruntime.__version__
        self.shape = query.shape
        self.session = onnxruntime.InferenceSession(
            self._model(granularity, query.shape, key.shape),
            contenders.onnx_options(threads),
            providers=["CPUExecutionProvider"],
        )
        kv_len = key.shape[2]
        feed = {
            "query": query.reshape(1, 1, -1),
            "key": last_token(key).reshape(1, 1, -1),
            "value": last_token(value).reshape(1, 1, -1),
            "last_key": np.array([kv_len - 1], np.int32),
            "total_tokens": np.array([kv_len], np.int32),
        }
        key_codes, feed["key_scale"] = self._quantized(granularity, key)
        value_codes, feed["value_scale"] = self._quantized(granularity, value)
        self.bindings = [self._bind(feed, key_codes, value_codes) for _ in range(num_caches)]

    def close(self):
        pass

    def run(self, index):
        self.last = self.bindings[index]
        self.session.run_with_iobinding(self.last)

    def result(self):
        return self.last.get_outputs()[0].numpy().reshape(self.shape)

    def _bind(self, feed, key_codes, value_codes):
        """One memory for the cache before and after: the operator writes the new token alone."""
        import onnxruntime

        binding = self.session.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, array)
        binding.bind_output("out")
        for name, codes in (("keys", key_codes), ("values", value_codes)):
            cache = onnxruntime.OrtValue.ortvalue_from_numpy(codes.copy())
            binding.bind_ortvalue_input(f"past_{name}", cache)
            binding.bind_ortvalue_output(f"all_{name}", cache)
        return binding

    @staticmethod
    def _quantized(granularity, array):
        axes = 2 if granularity == "PER_CHANNEL" else None
        scale = np.abs(array).max(axis=axes, keepdims=True) / np.float32(127)
        codes = np.rint(array / scale).astype(np.int8)
        return codes, scale if granularity == "PER_CHANNEL" else scale.reshape(1)

    @staticmethod
    def _model(granularity, query_shape, cache_shape):
        from onnx import TensorProto, helper

        _, heads, _, dim = query_shape
        kv_heads = cache_shape[1]
        info = helper.make_tensor_value_info
        inputs = [
            info("query", TensorProto.FLOAT, [1, 1, heads * dim]),
            info("key", TensorProto.FLOAT, [1, 1, kv_heads * dim]),
            info("value", TensorProto.FLOAT, [1, 1, kv_heads * dim]),
            info("past_keys", TensorProto.INT8, cache_shape),
            info("past_values", TensorProto.INT8, cache_shape),
            info("last_key", TensorProto.INT32, [1]),
            info("total_tokens", TensorProto.INT32, [1]),
        ]
        scales = [info(f"{name}_scale", TensorProto.FLOAT, None) for name in ("key", "value")]
        outputs = [info("out", TensorProto.FLOAT, [1, 1, heads * dim])]
        outputs += [
            info(name, TensorProto.INT8, cache_shape) for name in ("all_keys", "all_values")
        ]
        # Rotary embedding, positions, biases and sinks stand between, and are not given.
        names = [x.name for x in inputs] + [""] * 5 + [x.name for x in scales]
        node = helper.make_node(
            "GroupQueryAttention",
            names,
            [x.name for x in outputs],
            domain="com.microsoft",
            num_heads=heads,
            kv_num_heads=kv_heads,
            k_quant_type=granularity,
            v_quant_type=granularity,
            kv_cache_bit_width=8,
        )
        graph = helper.make_graph([node], "decoding", inputs + scales, outputs)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets)
        model.ir_version = 10
        return model.SerializeToString()


class Reading:
    """As many bytes as a cache has in codes, each read once: the largest of them as words."""

    def __init__(self, threads, key, value, num_caches):
        words = (key.size + value.size) // 8
        self.caches = [np.ones(words, np.int64) for _ in range(num_caches)]
        self.threads = threads
        self.pool = concurrent.futures.ThreadPoolExecutor(threads)

    def close(self):
        self.pool.shutdown()

    def run(self, index):
        mine, *others = np.array_split(self.caches[index], self.threads)
        pending = [self.pool.submit(np.max, part) for part in others]
        np.max(mine)
        concurrent.futures.wait(pending)
