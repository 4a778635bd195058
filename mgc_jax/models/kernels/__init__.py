"""Forms of the layers for one platform, each equal to the plain one."""
