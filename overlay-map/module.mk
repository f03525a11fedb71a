MODULES += omap
omap_DIR := overlay-map
omap_SRC := $(wildcard overlay-map/*.c)
omap_USES :=
omap_PKGS :=
