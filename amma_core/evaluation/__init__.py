"""How good are the detections? Frame-mAP, video-mAP and the error analysis of the ACT line of work.

Everything here takes arrays and knows neither network nor robot:

- :func:`~amma_core.evaluation.frame_map.frame_map`, ``frame_curves``: boxes of single frames;
- :func:`~amma_core.evaluation.video_map.video_map`, ``video_curves``: whole action tubes;
- :class:`~amma_core.evaluation.tubes.Tubes`: tubes as flat arrays, ``annotated_tubes`` makes the ground truth.
"""
