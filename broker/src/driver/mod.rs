//! The thin driver: glommio executors, sockets, files, timers, threads. glommio is named nowhere else.
