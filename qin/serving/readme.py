"""What the folder of an exported model says of itself; the tests run every block of it."""

from collections.abc import Sequence

from qin.runtime.seeds import GOLDEN, MIX_FACTORS

_HASHES = '''## How values become inputs

- `categorical` holds a column each, in the order of `signature.json`: an integer column its integers, any other the
  64-bit hash of its text. `categorical_is_null` is true where a value is missing.
- `numeric` holds the numeric columns as float32, NaN where missing.
- Each history has its tokens, oldest first and from the left, at least one column wide; which of them are missing; and
  how many there are, the whole history, of which the model keeps the last `max_len` itself. Tokens are integers, or the
  hashes of texts. Tokens that `signature.json` calls padding are left out.
- `impression` is any number that rows of one request share; `compared` holds the columns that are compared in it.

Values that are no text are hashed by their text: whole numbers as their digits, fractions as the shortest text that
gives them back, dates as `2022-05-04`, moments as `2022-05-04 12:30:00`. A text that is an integer of 64 bits in its
plain form has the hash of that integer:

```python
MASK = (1 << 64) - 1
FIRST_FACTOR, SECOND_FACTOR, GOLDEN_RATIO = @constants@


def mix(word):
    word = ((word ^ (word >> 30)) * FIRST_FACTOR) & MASK
    word = ((word ^ (word >> 27)) * SECOND_FACTOR) & MASK
    return word ^ (word >> 31)


def hash_of_text(text):
    """The input of a text of up to 64 bytes, as a signed integer."""
    if text == "0" or (text.lstrip("-").isascii() and text.lstrip("-").isdigit() and text.lstrip("-")[0] != "0"):
        if -(1 << 63) <= int(text) < 1 << 63 and text == str(int(text)):
            word = mix((int(text) + GOLDEN_RATIO) & MASK)
            return word - (1 << 64) if word >> 63 else word
    word = 0xCBF29CE484222325
    for byte in text.encode():
        word = ((word ^ byte) * 0x100000001B3) & MASK
    word = mix(word ^ 0xD6E8FEB86659FD93)
    return word - (1 << 64) if word >> 63 else word
```
'''

_ONNX = """```python
import json

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
inputs = dict(np.load("golden_inputs.npz"))
probability, logit, buckets = session.run(["probability", "logit", "buckets"], inputs)
golden = json.load(open("golden.json"))
assert np.abs(logit - golden["logit"]).max() < 1e-4
assert (buckets == golden["buckets"]).all()
```

In C++, and in any other language that ONNX Runtime has, inputs and outputs have the same names.
"""

_PT2 = """```python
import json

import numpy as np
import torch

names = {names}
inputs = np.load("golden_inputs.npz")
model = {load}
with torch.inference_mode():
    probability, logit, buckets = model(*(torch.from_numpy(inputs[name]) for name in names))
golden = json.load(open("golden.json"))
assert np.abs(logit.numpy() - golden["logit"]).max() < 1e-4
```
"""

_CPP = """
From C++, as `score.cpp`, with `golden_inputs.pt`, which holds the inputs in their order:

```cpp
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

int main() {{
  std::ifstream file("golden_inputs.pt", std::ios::binary);
  std::vector<char> bytes{{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()}};
  c10::IValue loaded = torch::pickle_load(bytes);
  std::vector<at::Tensor> inputs;
  for (const auto& value : loaded.toTupleRef().elements()) inputs.push_back(value.toTensor());
  c10::InferenceMode mode;
  torch::inductor::AOTIModelPackageLoader model("{file}");
  at::Tensor probability = model.run(inputs)[0];
  for (int64_t row = 0; row < probability.size(0); ++row) std::printf("%.17g\\n", probability[row].item<double>());
}}
```

```sh
torch="$(python -c 'import torch; print(torch.__path__[0])')"
c++ -std=c++20 score.cpp -o score -I "$torch/include" -I "$torch/include/torch/csrc/api/include" \\
  -L "$torch/lib" -Wl,-rpath,"$torch/lib" -ltorch -ltorch_cpu -lc10
./score
```
"""

_LOAD = {
    "pt2": 'torch.export.load("{file}").module()',
    "aoti": 'torch._inductor.aoti_load_package("{file}")',
}


def readme(kind: str, file: str, names: Sequence[str]) -> str:
    """The text of `README.md`."""
    if kind == "onnx":
        lines = _ONNX.format(file=file)
    else:
        lines = _PT2.format(names=list(names), load=_LOAD[kind].format(file=file))
    if kind == "aoti":
        lines += _CPP.format(file=file)
    title = "# A click model\n\nRaw values in, calibrated probabilities out; `signature.json` says what is what.\n"
    constants = ", ".join(f"0x{int(word):X}" for word in (*MIX_FACTORS, GOLDEN))
    return f"{title}\n{lines}\n{_HASHES.replace('@constants@', constants)}"
