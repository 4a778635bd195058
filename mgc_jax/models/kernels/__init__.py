"""Layers' operations in forms made for a platform, each equal to the plain one in value and gradient.

The layers use `conv_pool.conv_norm_pool`, `time_conv.time_conv_pool` and `gru.gru_states`. These choose the form that
was measured best on the platform. `config.model.kernels = "plain"` sets `platform_kernels` of all layers to False, and
they use none of them.
"""
