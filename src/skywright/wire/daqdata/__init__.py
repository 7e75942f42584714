"""DaqData, the gRPC service of PANOSETI's live images: messages, methods, encoding of images.

``daq_data_pb2`` is generated: ``python -m grpc_tools.protoc -I. --python_out=. --pyi_out=.
daq_data.proto``.
"""

SERVICE = "daqdata.DaqData"
DEFAULT_PORT = 50051
DEFAULT_SOCKET = "unix:///tmp/daq_data.sock"
