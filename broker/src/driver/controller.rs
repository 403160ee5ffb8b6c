pub enum ToController { Applied{shard: usize, offset: u64}, Requests{shard: usize, requests: Vec<(u64, millstream_replication::ControllerRequest)>} }
