// The request fields that hold raw bytes. A constant table. Read next: raw_fields.h.
#include "api/net/raw_fields.h"

const char *const grpc_raw_fields[] = {
    "agentfense.v1.DiffEntry.old_path",
    "agentfense.v1.DiffEntry.path",
    "agentfense.v1.DiffEntry.symlink_target",
    "agentfense.v1.ExplainRequest.path",
    "agentfense.v1.ImportEntry.path",
    "agentfense.v1.ImportEntry.symlink_target",
    "agentfense.v1.ImportRequest.data",
    "agentfense.v1.ImportRequest.remove",
    "agentfense.v1.ReadFileChunk.data",
    "agentfense.v1.ReadFileRequest.path",
    "agentfense.v1.RunRequest.argv",
    "agentfense.v1.RunRequest.command",
    "agentfense.v1.RunRequest.stdin",
    "agentfense.v1.RunRequest.workdir",
    "agentfense.v1.RunResponse.stderr",
    "agentfense.v1.RunResponse.stdout",
    "agentfense.v1.StatRequest.path",
    "agentfense.v1.TreeNode.path",
    "agentfense.v1.TreeNode.symlink_target",
    "agentfense.v1.TreeRequest.path",
    "sandbox.v1.ExecOutput.data",
    "sandbox.v1.ExecRequest.stdin", // a string in the contract, yet data: NUL is welcome
    "sandbox.v1.FileChunk.data",
    "sandbox.v1.UploadChunk.data",
};
const size_t grpc_raw_field_count = sizeof grpc_raw_fields / sizeof grpc_raw_fields[0];
