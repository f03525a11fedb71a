MODULES += bstore
bstore_DIR := blockstore
bstore_SRC := $(wildcard blockstore/*.c)
bstore_USES := omap
bstore_PKGS := libsodium libzstd zlib jansson
