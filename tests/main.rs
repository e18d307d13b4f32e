//! Every test of the workspace that needs libtorch or a real binary, in one binary so that libtorch is linked once.
