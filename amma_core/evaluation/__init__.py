"""How good are the detections? Frame-mAP, video-mAP and the error analysis of the ACT line of work.

Everything here takes arrays and knows neither network nor robot:

- :func:`~amma_core.evaluation.frame_map.frame_map`, ``frame_curves``: boxes of single frames;
- :func:`~amma_core.evaluation.video_map.video_map`, ``video_curves``: whole action tubes;
- :func:`~amma_core.evaluation.tubelets.frame_detections`: tubelets to boxes per frame;
- :func:`~amma_core.evaluation.metrics.evaluate`: all of the numbers at once;
- :mod:`~amma_core.evaluation.predictions`: the files that hold detections and tubes, and their checks;
- :class:`~amma_core.evaluation.tubes.Tubes`: flat arrays; ``annotated_tubes`` makes those of the truth.
"""
