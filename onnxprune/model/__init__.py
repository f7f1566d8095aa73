"""The file: what an ONNX model holds, read, edited and written without losing a byte."""
