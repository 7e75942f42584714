"""Write the ONNX file of the tests, which needs the package onnx:

    python tests/support/dark_box_net.py tests/loop/dark_box.onnx

It has no weights: its one box holds all that is darker than half of the scale, class 1. So the
tests know what it must answer.
"""

import sys
from pathlib import Path

HEIGHT, WIDTH, DARK = 128, 192, 0.5


def write(path: Path) -> None:
    """Write the file."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def constant(name, values, dtype):
        return numpy_helper.from_array(np.array(values, dtype), name)

    size = [HEIGHT, WIDTH, HEIGHT, WIDTH]
    constants = [
        constant("level", DARK, np.float32),
        constant("across", [1, 3], np.int64),
        constant("down", [1, 2], np.int64),
        constant("size", [[size]], np.float32),
        constant("ends", [[[0, 0, 1, 1]]], np.float32),
        constant("kinds", [[1.0]], np.float32),
        constant("whole", [1, 2, 3], np.int64),
        constant("in_boxes", [1, 1, 4], np.int64),
        constant("front", [0], np.int64),
    ]
    nodes = [
        helper.make_node("Less", ["image", "level"], ["is_dark"]),
        helper.make_node("Cast", ["is_dark"], ["dark"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["dark", "across"], ["rows"], keepdims=0),
        helper.make_node("ReduceMax", ["dark", "down"], ["columns"], keepdims=0),
        *(
            helper.make_node("ArgMax", [of], [end], axis=1, keepdims=1, select_last_index=last)
            for of, end, last in (
                ("rows", "ymin", 0),
                ("columns", "xmin", 0),
                ("rows", "ymax", 1),
                ("columns", "xmax", 1),
            )
        ),
        helper.make_node("Concat", ["ymin", "xmin", "ymax", "xmax"], ["corners"], axis=1),
        helper.make_node("Cast", ["corners"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "in_boxes"], ["boxes"]),
        helper.make_node("Add", ["boxes", "ends"], ["outer"]),
        helper.make_node("Div", ["outer", "size"], ["detection_boxes"]),
        helper.make_node("ReduceMax", ["dark", "whole"], ["score"], keepdims=0),
        helper.make_node("Unsqueeze", ["score", "front"], ["detection_scores"]),
        helper.make_node("Identity", ["kinds"], ["detection_classes"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "dark box",
        [value("image", TensorProto.FLOAT, [1, 1, HEIGHT, WIDTH])],
        [
            value("detection_boxes", TensorProto.FLOAT, [1, 1, 4]),
            value("detection_scores", TensorProto.FLOAT, [1, 1]),
            value("detection_classes", TensorProto.FLOAT, [1, 1]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"classes": "nylon,mitegen,pin"})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
