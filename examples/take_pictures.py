"""Take three pictures and look at them, as a script beside a running `skywright up`.

python examples/take_pictures.py

A notebook does the same with `load_profile(globals())`, and then has RE, axis ... by name.
"""

from skywright.session.profile import load_profile

beamline = load_profile()
RE, axis, take_pictures = beamline["RE"], beamline["axis"], beamline["take_pictures"]

result = RE(take_pictures(axis, 3, md={"sample": "demonstration"}))
run = beamline["stored"](result.plan_result)
pictures = run["primary/axis_image"].read()
print(f"{len(pictures)} pictures of {pictures.shape[2]} x {pictures.shape[1]}")
