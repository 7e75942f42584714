"""UbloxControl, the gRPC service of a timing receiver, and the UBX messages that it carries.

``ublox_control_pb2`` is generated: ``python -m grpc_tools.protoc -I. --python_out=. --pyi_out=.
ublox_control.proto``. UBX itself is read and written by pyubx2.
"""

SERVICE = "ubloxcontrol.UbloxControl"
