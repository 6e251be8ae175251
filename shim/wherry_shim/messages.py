# SPDX-License-Identifier: Apache-2.0
"""Tables of the messages that every server speaks: ttrpc, the task service, its events, options. specs/*.proto are the same in words.

A prefix stands for a package (PACKAGES): the task service of v2 and v3 has the same messages. Rare ones are in messages_rare.py.
"""

from wherry_shim import wire

PACKAGES = {
    "any": "google.protobuf",
    "ttrpc": "ttrpc",
    "rpc": "google.rpc",
    "task": "containerd.task.v2",
    "types": "containerd.types",
    "v1": "containerd.v1.types",
    "events": "containerd.events",
    "forward": "containerd.services.events.ttrpc.v1",
    "runc": "containerd.runc.v1",
    "engine": "runtimeoptions.v1",
}

_ANY, _TIME, _ID = "any.Any", "any.Timestamp", "string id 1, string exec_id 2"

TABLE = {
    "any.Any": "string type_url 1, bytes value 2",
    "any.Empty": "",
    "any.Timestamp": "int64 seconds 1, int32 nanos 2",
    # ttrpc
    "ttrpc.Request": "string service 1, string method 2, bytes payload 3, int64 timeout_nano 4, KeyValue* metadata 5",
    "ttrpc.Response": "rpc.Status status 1, bytes payload 2",
    "ttrpc.KeyValue": "string key 1, string value 2",
    "rpc.Status": f"int32 code 1, string message 2, {_ANY}* details 3",
    # the task service
    "task.CreateTaskRequest": "string id 1, string bundle 2, types.Mount* rootfs 3, bool terminal 4, string stdin 5, string stdout 6, string stderr 7,"
    f" string checkpoint 8, string parent_checkpoint 9, {_ANY} options 10",
    "task.CreateTaskResponse": "uint32 pid 1",
    "task.StartRequest": _ID,
    "task.StartResponse": "uint32 pid 1",
    "task.DeleteRequest": _ID,
    "task.DeleteResponse": f"uint32 pid 1, uint32 exit_status 2, {_TIME} exited_at 3",
    "task.ExecProcessRequest": f"{_ID}, bool terminal 3, string stdin 4, string stdout 5, string stderr 6, {_ANY} spec 7",
    "task.ResizePtyRequest": f"{_ID}, uint32 width 3, uint32 height 4",
    "task.StateRequest": _ID,
    "task.StateResponse": "string id 1, string bundle 2, uint32 pid 3, int32 status 4, string stdin 5, string stdout 6, string stderr 7, bool terminal 8,"
    f" uint32 exit_status 9, {_TIME} exited_at 10, string exec_id 11",
    "task.KillRequest": f"{_ID}, uint32 signal 3, bool all 4",
    "task.CloseIORequest": f"{_ID}, bool stdin 3",
    "task.PidsRequest": "string id 1",
    "task.PidsResponse": "v1.ProcessInfo* processes 1",
    "task.PauseRequest": "string id 1",
    "task.ResumeRequest": "string id 1",
    "task.CheckpointTaskRequest": f"string id 1, string path 2, {_ANY} options 3",
    "task.UpdateTaskRequest": f"string id 1, {_ANY} resources 2, string% annotations 3",
    "task.WaitRequest": _ID,
    "task.WaitResponse": f"uint32 exit_status 1, {_TIME} exited_at 2",
    "task.StatsRequest": "string id 1",
    "task.StatsResponse": f"{_ANY} stats 1",
    "task.ConnectRequest": "string id 1",
    "task.ConnectResponse": "uint32 shim_pid 1, uint32 task_pid 2, string version 3",
    "task.ShutdownRequest": "string id 1, bool now 2",
    "types.Mount": "string type 1, string source 2, string target 3, string* options 4",
    "v1.ProcessInfo": f"uint32 pid 1, {_ANY} info 2",
    "runc.ProcessDetails": "string exec_id 1",
    # options
    "runc.Options": "bool no_pivot_root 1, bool no_new_keyring 2, string shim_cgroup 3, uint32 io_uid 4, uint32 io_gid 5, string binary_name 6, string root 7,"
    " bool systemd_cgroup 9, string criu_image_path 10, string criu_work_path 11, string task_api_address 12, uint32 task_api_version 13",
    "runc.CheckpointOptions": "bool exit 1, bool open_tcp 2, bool external_unix_sockets 3, bool terminal 4, bool file_locks 5, string* empty_namespaces 6,"
    " string cgroups_mode 7, string image_path 8, string work_path 9, string parent_path 10",
    "engine.Options": "string type_url 1, string config_path 2, bytes config_body 3",
    # events
    "forward.ForwardRequest": "types.Envelope envelope 1",
    "types.Envelope": f"{_TIME} timestamp 1, string namespace 2, string topic 3, {_ANY} event 4",
    "events.TaskIO": "string stdin 1, string stdout 2, string stderr 3, bool terminal 4",
    "events.TaskCreate": "string container_id 1, string bundle 2, types.Mount* rootfs 3, TaskIO io 4, string checkpoint 5, uint32 pid 6",
    "events.TaskStart": "string container_id 1, uint32 pid 2",
    "events.TaskExit": f"string container_id 1, string id 2, uint32 pid 3, uint32 exit_status 4, {_TIME} exited_at 5",
    "events.TaskDelete": f"string container_id 1, uint32 pid 2, uint32 exit_status 3, {_TIME} exited_at 4, string id 5",
    "events.TaskOOM": "string container_id 1",
    "events.TaskExecAdded": "string container_id 1, string exec_id 2",
    "events.TaskExecStarted": "string container_id 1, string exec_id 2, uint32 pid 3",
    "events.TaskPaused": "string container_id 1",
    "events.TaskResumed": "string container_id 1",
    "events.TaskCheckpointed": "string container_id 1, string checkpoint 2",
}

wire.add(TABLE)
