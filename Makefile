# AgentFense-C: one non-recursive Makefile. `make help` lists the targets.
#
# Outputs: build/<variant>/{bin,lib,obj,gen,tests}; fetched dependencies: build/deps.
# Variants: VARIANT=release (default), asan (ASan+UBSan), tsan, fuzz (clang, for tests/fuzz).
# FUSE=system builds against the system's libfuse (3.14 has fewer features) into
# build/<variant>-sysfuse; otherwise the private >= 3.18.3 of `make deps` is used.

VARIANT ?= release
FUSE    ?= auto
BUILD   ?= build
CC      := $(if $(filter default,$(origin CC)),$(if $(filter fuzz,$(VARIANT)),clang,gcc),$(CC))

FUSE_MIN  := 3.18.3
FUSE_DIR  := build/deps/libfuse
PYTHON    := /usr/bin/python3
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

B := $(BUILD)/$(VARIANT)$(if $(filter system,$(FUSE)),-sysfuse)

# ---- goals that build nothing here ------------------------------------------------------
.PHONY: help deps check check-full run clean distclean all bins lib-check objs unit units \
        format tidy style gen fuzz fuzzers bench bench-quick bench-exec bench-import python install deb man
help:
	@echo 'make              build the daemon and tools (VARIANT=release|asan|tsan, FUSE=system)'
	@echo 'make run          install what is needed, build, and show the demo'
	@echo 'make check        install what is needed, build, run style checks and all tests'
	@echo 'make check-full   make check plus the long matrices'
	@echo 'make deps         Debian packages and the private libfuse (idempotent)'
	@echo 'make objs DIR=d   compile only the objects of one folder'
	@echo 'make unit T=f.c   build and run one unit test (under ASan unless VARIANT is given)'
	@echo 'make units        build every unit test of the variant'
	@echo 'make python       the Python package: its messages made in place, a wheel in build/python'
	@echo 'make fuzz         a short run of every fuzzer'
	@echo 'make bench        this system beside its peers, with plots; bench-quick is smaller'
	@echo 'make install       into DESTDIR and PREFIX (/usr/local); make deb: a package in build/deb; make man'
	@echo 'make bench-exec   start, exec and destroy beside a bare bubblewrap'
	@echo 'make bench-import directories into codebases beside cp -a'
	@echo 'make style | format | tidy | clean | distclean'

deps:
	@tools/build/deps.sh
	@if [ '$(FUSE)' != system ]; then tools/build/libfuse.sh '$(FUSE_DIR)' '$(FUSE_MIN)'; fi
	@tools/build/promtool.sh build/deps/promtool
	@tools/build/guest.sh build/deps/guest

check: deps
	@$(PYTHON) tests/run check

check-full: deps
	@$(PYTHON) tests/run full

run: deps
	@$(MAKE) --no-print-directory VARIANT=release all
	@tools/demo.sh

clean: # keeps build/deps, which took a download
	@find $(BUILD) -mindepth 1 -maxdepth 1 ! -name deps -exec rm -rf {} + 2>/dev/null || true

distclean:
	rm -rf $(BUILD)

style:
	@$(PYTHON) tests/style/check.py

# PYTHONPATH=api/python/src works after it; so does pip install of the wheel or of api/python.
python: deps
	@$(PYTHON) api/python/generate.py api/python/src/agentfense/_proto proto
	@$(PYTHON) -m pip wheel -q --no-deps -w $(BUILD)/python api/python && ls $(BUILD)/python/*.whl

bench-exec: deps
	@$(MAKE) --no-print-directory VARIANT=release all
	@$(PYTHON) bench/run.py --only exec

bench-import: deps
	@$(MAKE) --no-print-directory VARIANT=release all
	@$(PYTHON) bench/run.py --only imports

# A peer that cannot be installed is left out, with a line that says so.
bench bench-quick: deps
	-@tools/build/deps.sh bench
	@$(MAKE) --no-print-directory VARIANT=release all
	@$(PYTHON) bench/run.py $(if $(filter bench-quick,$@),--quick)

fuzz: deps
	@$(PYTHON) tests/run full --only fuzz-long

# ---- sources ----------------------------------------------------------------------------
find_c = $(sort $(shell find $(1) $(2) -name '*.c' -type f 2>/dev/null))

SRC_mux    := $(call find_c,mux)
SRC_base   := $(filter mux/base/%,$(SRC_mux))
SRC_store  := $(filter mux/store/%,$(SRC_mux))
SRC_fs     := $(call find_c,fs)
SRC_init   := $(call find_c,exec/init)
SRC_exec   := $(filter-out exec/init/%,$(call find_c,exec))
SRC_client := $(call find_c,api/client)
SRC_api    := $(filter-out api/client/%,$(call find_c,api))
SRC_tools  := $(call find_c,tools/common)
SRC_fsctl  := $(call find_c,tools/fsctl)
SRC_cli    := $(call find_c,tools/agentfense)
SRC_fuzz   := $(call find_c,tests/fuzz)
SRC_bench  := $(call find_c,bench)
SRC_unit   := $(call find_c,tests/unit)
TESTS_unit := $(foreach f,$(SRC_unit),$(if $(filter test_%,$(notdir $(f))),$(f)))
PROTOS     := $(sort $(wildcard proto/*.proto proto/grpc/*.proto))
GOOGLE     := timestamp duration empty descriptor

# ---- flags ------------------------------------------------------------------------------
# protobuf-c's INIT macros say {0} for a union whose first member is a struct.
WARN    := -Wall -Wextra -Werror -Wno-missing-braces
COMMON  := -std=gnu17 $(WARN) -g -D_GNU_SOURCE -fstack-protector-strong -fPIE -pthread
INCLUDE := -I. -I$(B)/gen

FLAGS_release := -O2 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
# No _FORTIFY_SOURCE: its wrappers hide calls from the sanitisers. gcc's flow warnings are
# unreliable in instrumented code; the release build keeps them as errors.
SANITISED  := -O1 -fno-omit-frame-pointer -fno-optimize-sibling-calls -Wno-error=maybe-uninitialized
FLAGS_asan := $(SANITISED) -fsanitize=address,undefined -fno-sanitize-recover=undefined
FLAGS_tsan := $(SANITISED) -fsanitize=thread -Wno-error=tsan
FLAGS_fuzz := -O1 -Wno-missing-field-initializers -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined \
              -fno-sanitize-recover=undefined
FLAGS      := $(FLAGS_$(VARIANT))
ifeq ($(FLAGS),)
$(error VARIANT must be release, asan, tsan or fuzz, not '$(VARIANT)')
endif

# libfuse: the private build when it is there, else the system's.
PRIVATE_FUSE := $(if $(filter system,$(FUSE)),,$(wildcard $(FUSE_DIR)/lib/libfuse3.a))
PKGS := liburing lmdb libseccomp libprotobuf-c libnghttp2 libssl libcrypto libcurl jansson \
        libcyaml yaml-0.1 libfyaml liburcu libsystemd libcap libarchive ncursesw
BUILD_GOALS := $(filter-out help deps check check-full run clean distclean style format fuzz bench \
                 bench-quick bench-exec bench-import python, \
                 $(or $(MAKECMDGOALS),all))
ifneq ($(BUILD_GOALS),)
PKGS_HERE   := $(shell for p in $(PKGS); do pkg-config --exists $$p 2>/dev/null && echo $$p; done)
PKG_CFLAGS  := $(if $(PKGS_HERE),$(shell pkg-config --cflags $(PKGS_HERE)))
PKG_LIBS    := $(if $(PKGS_HERE),$(shell pkg-config --libs $(PKGS_HERE)))
CMOCKA_LIBS := $(shell pkg-config --libs cmocka 2>/dev/null || echo -lcmocka)
ifneq ($(PRIVATE_FUSE),)
FUSE_CFLAGS := -isystem $(FUSE_DIR)/include/fuse3 -isystem $(FUSE_DIR)/include
FUSE_LIBS   := $(shell PKG_CONFIG_PATH=$(FUSE_DIR)/lib/pkgconfig pkg-config --static --libs fuse3)
else
FUSE_CFLAGS := $(shell pkg-config --cflags fuse3 2>/dev/null)
FUSE_LIBS   := $(shell pkg-config --libs fuse3 2>/dev/null)
ifneq ($(FUSE),system)
ifneq ($(shell pkg-config --atleast-version=$(FUSE_MIN) fuse3 2>/dev/null && echo yes),yes)
$(warning libfuse >= $(FUSE_MIN) is not here: building with fewer features. Run 'make deps')
endif
endif
endif
endif

CFLAGS_ALL  := $(COMMON) $(FLAGS) $(INCLUDE) $(FUSE_CFLAGS) $(PKG_CFLAGS) $(CFLAGS)
LDFLAGS_ALL := $(FLAGS) -pie -pthread -Wl,--as-needed -Wl,-z,relro,-z,now $(LDFLAGS)
LIBS_ALL    := $(FUSE_LIBS) $(PKG_LIBS) -lm
# The init runs inside every sandbox: static, small, and never instrumented. By musl, where it is
# installed, it is up 0.2 ms earlier: glibc asks the CPU for its caches first, in a virtual machine
# a slow question. What musl-gcc does not have are the headers of the kernel.
INIT_CC := $(or $(if $(filter cc gcc clang,$(notdir $(CC))),$(shell command -v musl-gcc)),$(CC))
INIT_CFLAGS := -std=gnu17 $(WARN) -g -Os -D_GNU_SOURCE -I. -fno-pie -fstack-protector-strong \
               -ffunction-sections -fdata-sections -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 \
               $(if $(filter %musl-gcc,$(INIT_CC)),$(addprefix -idirafter ,/usr/include \
                 /usr/include/$(shell $(CC) -print-multiarch)))
INIT_LDFLAGS := -static -no-pie -Wl,--gc-sections -Wl,-z,relro,-z,now

# A change of flags rebuilds objects, a change of the file list rebuilds archives.
FLAGS_NOW   := $(strip $(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) $(LIBS_ALL) $(INIT_CC) $(INIT_CFLAGS))
SOURCES_NOW := $(strip $(SRC_mux) $(SRC_fs) $(SRC_init) $(SRC_exec) $(SRC_client) $(SRC_api) \
                 $(SRC_tools) $(SRC_fsctl) $(SRC_cli) $(SRC_unit) $(SRC_fuzz) $(PROTOS))
ifneq ($(BUILD_GOALS),)
$(shell mkdir -p $(B))
ifneq ($(strip $(file <$(B)/.flags)),$(FLAGS_NOW))
$(file >$(B)/.flags,$(FLAGS_NOW))
endif
ifneq ($(strip $(file <$(B)/.sources)),$(SOURCES_NOW))
$(file >$(B)/.sources,$(SOURCES_NOW))
endif
endif
$(B)/.flags $(B)/.sources: ;

# ---- generated protobuf code ------------------------------------------------------------
GEN_PROTO  := $(PROTOS:proto/%.proto=$(B)/gen/proto/%.pb-c)
GEN_GOOGLE := $(if $(PROTOS),$(GOOGLE:%=$(B)/gen/google/protobuf/%.pb-c))
GEN_C      := $(addsuffix .c,$(GEN_PROTO) $(GEN_GOOGLE))
GEN_H      := $(addsuffix .h,$(GEN_PROTO) $(GEN_GOOGLE))
PROTO_SRC  := $(B)/gen-src

$(PROTO_SRC)/proto/%.proto: proto/%.proto tools/build/proto-bytes.awk
	@mkdir -p $(@D)
	@awk -f tools/build/proto-bytes.awk $< > $@
$(B)/gen/proto/%.pb-c.c $(B)/gen/proto/%.pb-c.h &: $(PROTO_SRC)/proto/%.proto \
		$(PROTOS:%=$(PROTO_SRC)/%)
	@mkdir -p $(@D)
	@echo '  PROTOC  $*.proto'
	@protoc-c -I$(PROTO_SRC) -I/usr/include --c_out=$(B)/gen proto/$*.proto
$(B)/gen/google/protobuf/%.pb-c.c $(B)/gen/google/protobuf/%.pb-c.h &: /usr/include/google/protobuf/%.proto
	@mkdir -p $(B)/gen
	@protoc-c -I/usr/include --c_out=$(B)/gen google/protobuf/$*.proto
# What the server tells about itself by reflection: the .proto files as they are, in binary form.
DESCRIPTOR_SET := $(B)/gen/proto/descriptor-set.bin
$(DESCRIPTOR_SET): $(PROTOS)
	@mkdir -p $(@D)
	@protoc -Iproto -I/usr/include --include_imports --descriptor_set_out=$@ $(PROTOS:proto/%=%)
$(B)/obj/api/services/descriptors.o: $(DESCRIPTOR_SET)
$(B)/obj/api/services/descriptors.o: CFLAGS_ALL += -DDESCRIPTOR_SET='"$(DESCRIPTOR_SET)"'
gen: $(GEN_C) $(GEN_H) $(DESCRIPTOR_SET)

# ---- objects ----------------------------------------------------------------------------
objs_of = $(patsubst %.c,$(B)/obj/%.o,$(1))

$(B)/obj/%.o: %.c $(B)/.flags | $(GEN_H)
	@mkdir -p $(@D)
	@echo '  CC      $<'
	@$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<
$(B)/obj/gen/%.o: $(B)/gen/%.c $(B)/.flags | $(GEN_H)
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS_ALL) -w -MMD -MP -c -o $@ $<
$(B)/obj-init/%.o: %.c $(B)/.flags
	@mkdir -p $(@D)
	@echo '  CC      $< (init)'
	@$(INIT_CC) $(INIT_CFLAGS) -MMD -MP -c -o $@ $<

OBJ_proto := $(GEN_C:$(B)/gen/%.c=$(B)/obj/gen/%.o)
# A library has everything of its folder but the main programs, so that tests can link it.
NOT_MAIN = $(filter-out api/main.c %/main.c,$(1))
LIB_OBJS_mux    := $(call objs_of,$(SRC_mux))
LIB_OBJS_base   := $(call objs_of,$(SRC_base))
LIB_OBJS_store  := $(call objs_of,$(SRC_store))
LIB_OBJS_fs     := $(call objs_of,$(SRC_fs))
LIB_OBJS_exec   := $(call objs_of,$(SRC_exec))
LIB_OBJS_init   := $(call objs_of,$(call NOT_MAIN,$(SRC_init)))
LIB_OBJS_api    := $(call objs_of,$(call NOT_MAIN,$(SRC_api)))
LIB_OBJS_client := $(call objs_of,$(SRC_client))
LIB_OBJS_tools  := $(call objs_of,$(SRC_tools))
LIB_OBJS_fsctl  := $(call objs_of,$(call NOT_MAIN,$(SRC_fsctl)))
LIB_OBJS_cli    := $(call objs_of,$(call NOT_MAIN,$(SRC_cli)))
LIB_OBJS_proto  := $(OBJ_proto)
LIB_OBJS_test   := $(call objs_of,$(filter-out $(TESTS_unit),$(SRC_unit)))

define library
$(B)/lib/lib$(1).a: $$(LIB_OBJS_$(1)) $(B)/.sources
	@mkdir -p $$(@D)
	@rm -f $$@
	@$(AR) rcsD $$@ $$(LIB_OBJS_$(1))
endef
LIBS := mux base store fs exec init api client tools fsctl cli proto test
AR   ?= ar
$(foreach l,$(LIBS),$(eval $(call library,$(l))))
lib = $(1:%=$(B)/lib/lib%.a)
group = -Wl,--start-group $(1) -Wl,--end-group

# ---- programs (each only once its main is there) ----------------------------------------
BIN := $(B)/bin
BINS := $(if $(filter api/main.c,$(SRC_api)),$(BIN)/agentfensed) \
        $(if $(SRC_init),$(BIN)/agentfense-init) \
        $(if $(filter %/main.c,$(SRC_fsctl)),$(BIN)/agentfense-fsctl) \
        $(if $(filter %/main.c,$(SRC_cli)),$(BIN)/agentfense) \
        $(SRC_bench:%.c=$(B)/%)
link = @mkdir -p $(@D); echo '  LD      $@'; \
       $(CC) $(LDFLAGS_ALL) -o $@ $(filter %.o,$^) $(call group,$(filter %.a,$^)) $(LIBS_ALL)

all: bins
bins: $(BINS)
$(BIN)/agentfensed: $(call objs_of,api/main.c) $(call lib,api fs exec mux proto)
	$(link)
$(BIN)/agentfense-fsctl: $(call objs_of,tools/fsctl/main.c) $(call lib,fsctl tools client store base proto)
	$(link)
$(BIN)/agentfense: $(call objs_of,tools/agentfense/main.c) $(call lib,cli tools client base proto)
	$(link)
$(BIN)/agentfense-init: $(SRC_init:%.c=$(B)/obj-init/%.o) $(B)/.sources
	@mkdir -p $(@D); echo '  LD      $@'
	@$(INIT_CC) $(INIT_LDFLAGS) -o $@ $(filter %.o,$^)

$(B)/bench/%: $(B)/obj/bench/%.o $(call lib,client base proto)
	$(link)

# ---- installing (packaging/install.sh; docs/PACKAGING.md) --------------------------------
install: bins
	@DESTDIR='$(DESTDIR)' PREFIX='$(or $(PREFIX),/usr/local)' SYSCONFDIR='$(or $(SYSCONFDIR),/etc)' \
		packaging/install.sh $(BIN)
deb: bins
	@packaging/deb.sh $(BIN) $(BUILD)/deb
man: bins
	@$(PYTHON) docs/man/generate.py $(BIN) $(BUILD)/man && ls $(BUILD)/man/*

# ---- unit tests -------------------------------------------------------------------------
UNIT_BINS := $(TESTS_unit:%.c=$(B)/%)
# A test links what its folder may use and no more, so that it does not wait for the rest.
define unit_rule
$(B)/tests/unit/$(1)%: $(B)/obj/tests/unit/$(1)%.o $(call lib,test $(2))
	@mkdir -p $$(@D)
	@echo '  LD      $$@'
	@$(CC) $(LDFLAGS_ALL) -o $$@ $$< $$(call group,$$(filter %.a,$$^)) $(CMOCKA_LIBS) $(LIBS_ALL)
endef
$(eval $(call unit_rule,,cli tools client api fs exec mux proto))
$(eval $(call unit_rule,mux/base/,base))
$(eval $(call unit_rule,mux/store/,store base))
$(eval $(call unit_rule,mux/,mux))
$(eval $(call unit_rule,fs/,fs mux))
$(eval $(call unit_rule,exec/init/,init exec base))
$(eval $(call unit_rule,exec/,exec base))
$(eval $(call unit_rule,api/client/,client base proto))
$(eval $(call unit_rule,tools/,fsctl cli tools client store base proto))
units: $(UNIT_BINS)
.PRECIOUS: $(B)/obj/%.o $(PROTO_SRC)/proto/%.proto

unit:
	@test -n '$(T)' || { echo 'usage: make unit T=tests/unit/.../test_x.c'; exit 2; }
	@$(MAKE) --no-print-directory VARIANT=$(UNIT_VARIANT) $(BUILD)/$(UNIT_VARIANT)/bin/agentfense-init \
	  $(BUILD)/$(UNIT_VARIANT)/$(T:%.c=%)
	@$(PYTHON) tests/run one $(BUILD)/$(UNIT_VARIANT)/$(T:%.c=%)
UNIT_VARIANT := $(if $(filter command,$(firstword $(origin VARIANT))),$(VARIANT),asan)

# Fuzzers: each tests/fuzz/fuzz_*.c has a LLVMFuzzerTestOneInput; tests/run gives them a time.
FUZZERS := $(patsubst %.c,$(B)/%,$(foreach f,$(SRC_fuzz),$(if $(filter fuzz_%,$(notdir $(f))),$(f))))
$(B)/tests/fuzz/%: $(B)/obj/tests/fuzz/%.o $(call lib,test client api fs exec init mux proto)
	@mkdir -p $(@D)
	@$(CC) $(LDFLAGS_ALL) -fsanitize=fuzzer -o $@ $< $(call group,$(filter %.a,$^)) $(LIBS_ALL)
fuzzers: $(FUZZERS)

# ---- conveniences -----------------------------------------------------------------------
objs lib-check: $(if $(DIR),$(call objs_of,$(call find_c,$(DIR))))
	@test -n '$(DIR)' || { echo 'usage: make objs DIR=mux/store'; exit 2; }

C_FILES = $(shell find mux fs exec api tools tests bench \( -name '*.c' -o -name '*.h' \) 2>/dev/null)
format:
	@$(if $(C_FILES),clang-format -i $(C_FILES),true)
tidy: $(GEN_H)
	@printf '%s\n' $(or $(DIR:%=$(call find_c,$(DIR))),$(SRC_mux) $(SRC_fs) $(SRC_init) $(SRC_exec) \
		$(SRC_client) $(SRC_api) $(SRC_tools) $(SRC_fsctl) $(SRC_cli)) | xargs -r -P 2 -n 4 sh -c \
		'clang-tidy --quiet "$$@" -- $(filter-out -Werror,$(CFLAGS_ALL)) -DDESCRIPTOR_SET=\"$(DESCRIPTOR_SET)\"' tidy

DEPFILES := $(shell find $(B)/obj $(B)/obj-init -name '*.d' 2>/dev/null)
-include $(DEPFILES)
