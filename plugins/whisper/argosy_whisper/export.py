"""A checkpoint of a model hub made into what ctranslate2 and openvino_genai read. Runs in a tool environment."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from argosy import convert

CTRANSLATE2 = (*convert.CHECKPOINT, "ctranslate2==4.8.5")
OPENVINO = (*convert.OPENVINO, "openvino-tokenizers==2026.4.1.0")

EXAMPLE = 3  # tokens, present and past, that the decoder is traced with


def to_ctranslate2(source: Path, target: Path) -> None:
    """Tensors stay as wide as they are: the engine brings them down to its compute type when it loads."""
    from ctranslate2.converters import TransformersConverter

    copied = [name for name in ("tokenizer.json", "preprocessor_config.json") if (source / name).is_file()]
    converter = TransformersConverter(str(source), copy_files=copied)
    converter.convert(str(target), quantization="float16" if convert.sixteen(source) else None, force=True)
    if not (target / "tokenizer.json").exists():
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(source).backend_tokenizer.save(str(target / "tokenizer.json"))


def to_openvino(source: Path, target: Path) -> None:
    """Encoder, stateful decoder and tokenizers under the names and with the inputs that WhisperPipeline expects."""
    import openvino
    import torch
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer, WhisperForConditionalGeneration

    narrow = convert.sixteen(source)
    whisper = WhisperForConditionalGeneration.from_pretrained(
        source, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    for name, graph in (("encoder", _encoder(whisper)), ("decoder", _decoder(whisper))):
        openvino.save_model(graph, target / f"openvino_{name}_model.xml", compress_to_fp16=narrow)
    pair = convert_tokenizer(AutoTokenizer.from_pretrained(source), with_detokenizer=True)
    for name, graph in zip(("tokenizer", "detokenizer"), pair, strict=True):
        openvino.save_model(graph, target / f"openvino_{name}.xml", compress_to_fp16=False)
    for file in source.glob("*.json"):
        if not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)


def _encoder(whisper: Any) -> Any:
    """input_features (batch, mels, 3000) float32 -> last_hidden_state (batch, 1500, n)."""
    import openvino
    import torch

    class Encoder(torch.nn.Module):  # type: ignore[misc] # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.encoder = whisper.model.encoder

        def forward(self, input_features: Any) -> Any:
            return self.encoder(input_features).last_hidden_state

    frames = 2 * whisper.config.max_source_positions
    example = torch.zeros(1, whisper.config.num_mel_bins, frames)
    model = convert.traced(Encoder(), (example,))
    model.inputs[0].get_tensor().set_names({"input_features"})
    model.outputs[0].get_tensor().set_names({"last_hidden_state"})
    model.reshape({"input_features": openvino.PartialShape([-1, *example.shape[1:]])})
    return model


def _decoder(whisper: Any) -> Any:
    """input_ids (batch, tokens), encoder_hidden_states (batch, 1500, n), beam_idx (batch,), cache_position (tokens,) ->
    logits (batch, tokens, words). Keys and values of both attentions are state: those of its own tokens grow, those of
    the sound are computed once after a reset.
    """
    import openvino
    import torch
    from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

    config = whisper.config
    heads, size = config.decoder_attention_heads, config.d_model // config.decoder_attention_heads

    class Layer(DynamicLayer):  # type: ignore[misc] # transformers is untyped here
        """What it starts with has a rank already, which an empty tensor has not."""

        def __init__(self, keys: Any = None, values: Any = None) -> None:
            super().__init__()
            self.keys, self.values, self.is_initialized = keys, values, keys is not None

        def update(self, keys: Any, values: Any, *rest: Any, **more: Any) -> tuple[Any, Any]:
            if self.is_initialized:
                keys, values = torch.cat([self.keys, keys], -2), torch.cat([self.values, values], -2)
            self.keys, self.values, self.is_initialized = keys, values, True
            return keys, values

    class Decoder(torch.nn.Module):  # type: ignore[misc] # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.decoder, self.words = whisper.model.decoder, whisper.proj_out

        def forward(self, ids: Any, sound: Any, position: Any, *past: Any) -> Any:
            own = Cache([Layer(keys, values) for keys, values in zip(past[::2], past[1::2], strict=True)])
            cache = EncoderDecoderCache(own, Cache([Layer() for _ in own.layers]))
            keys = torch.arange(past[0].shape[2] + ids.shape[1])
            hidden = torch.finfo(torch.float32).min
            mask = torch.where(keys[None, :] <= position[:, None], 0.0, hidden)[None, None]  # (1, 1, tokens, keys)
            made = self.decoder(
                input_ids=ids,
                attention_mask=mask,
                encoder_hidden_states=sound,
                past_key_values=cache,
                position_ids=position[None, :],
                use_cache=True,
            )
            layers = [(layer.keys, layer.values) for layer in own.layers]
            return self.words(made.last_hidden_state), *(tensor for pair in layers for tensor in pair)

    names = [f"{layer}.{kind}" for layer in range(config.decoder_layers) for kind in ("key", "value")]
    example = (
        torch.zeros(2, EXAMPLE, dtype=torch.long),
        torch.zeros(2, config.max_source_positions, config.d_model),
        torch.arange(EXAMPLE, 2 * EXAMPLE),
        *(torch.zeros(2, heads, EXAMPLE, size) for _ in names),
    )
    model = convert.traced(Decoder(), example)
    given = ["input_ids", "encoder_hidden_states", "cache_position", *(f"past.{name}" for name in names)]
    for port, name in zip(model.inputs, given, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, ["logits", *(f"present.{name}" for name in names)], strict=True):
        port.get_tensor().set_names({name})
    model.get_parameters()[1].set_partial_shape(openvino.PartialShape([-1, *example[1].shape[1:]]))
    for parameter in model.get_parameters()[3:]:
        parameter.set_partial_shape(openvino.PartialShape([-1, heads, -1, size]))
    model.validate_nodes_and_infer_types()
    _keep_the_sound(model, heads, size)
    _keep_the_past(model, names)
    return model


def _keep_the_past(model: Any, names: Sequence[str]) -> None:
    """Inputs `past` and outputs `present` become one state each, empty at first, its rows picked by `beam_idx`."""
    import numpy as np
    import openvino
    from openvino import opset13 as op
    from openvino._offline_transformations import apply_make_stateful_transformation

    beams = op.parameter([-1], np.int32, name="beam_idx")
    beams.output(0).get_tensor().set_names({"beam_idx"})
    model.add_parameters([beams])
    for name in names:
        past = model.input(f"past.{name}")
        readers = past.get_target_inputs()
        picked = op.gather(past, beams, op.constant(0, np.int64))
        for reader in readers:
            reader.replace_source_output(picked.output(0))
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, {f"past.{name}": f"present.{name}" for name in names})
    rows = op.gather(op.shape_of(model.input("input_ids"), "i64"), op.constant([0], np.int64), op.constant(0, np.int64))
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue" and not node.inputs():
            _, heads, _, size = node.get_output_partial_shape(0)
            shape = op.concat([rows, op.constant([heads.get_length(), 0, size.get_length()], np.int64)], 0)
            node.set_arguments([op.broadcast(op.constant(0.0, np.float32), shape)])
    model.validate_nodes_and_infer_types()
    assert isinstance(model, openvino.Model)


def _keep_the_sound(model: Any, heads: int, size: int) -> None:
    """What follows from the sound alone is state too, or every token would cost the projections of 1500 frames."""
    import numpy as np
    from openvino import opset13 as op
    from openvino.op.util import Variable, VariableInfo

    shape = op.constant([0, -1, heads, size], np.int64)
    from_sound, fixed = {_name(model.input("encoder_hidden_states").get_node())}, set[str]()
    for node in model.get_ordered_ops():
        sources = [_name(port.get_source_output().get_node()) for port in node.inputs()]
        if node.get_type_name() == "Reshape" and sources[0] in from_sound:  # the tokens' batch is the sound's too
            node.input(1).replace_source_output(shape.output(0))
            node.set_special_zero(True)
            from_sound.add(_name(node))
        elif node.get_type_name() == "Constant" or (sources and fixed.issuperset(sources)):
            fixed.add(_name(node))
        elif sources and (fixed | from_sound).issuperset(sources):
            from_sound.add(_name(node))
    for node in model.get_ordered_ops():
        if _name(node) not in from_sound or node.get_type_name() in ("Parameter", "ShapeOf", "Result"):
            continue
        output = node.output(0)
        leaving = [port for port in output.get_target_inputs() if _name(port.get_node()) not in from_sound]
        if not leaving or not output.get_element_type().is_real():
            continue
        info = VariableInfo()
        info.data_shape, info.data_type = output.get_partial_shape(), output.get_element_type()
        info.variable_id = f"sound.{_name(node)}"
        variable = Variable(info)
        state = op.read_value(output, variable)
        for port in leaving:
            port.replace_source_output(state.output(0))
        model.add_variables([variable])
        model.add_sinks([op.assign(state, variable)])
    model.validate_nodes_and_infer_types()


def _name(node: Any) -> str:
    name: str = node.get_friendly_name()
    return name
