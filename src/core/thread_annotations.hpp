#pragma once
// Says which mutex a member is read and written under, so that clang checks it: scripts/lint.sh
// fails where a guarded member is touched without its mutex. Other compilers see nothing. The names
// are clang's (https://clang.llvm.org/docs/ThreadSafetyAnalysis.html); they take effect with
// runtime/mutex.hpp, because the standard library's mutex carries no such notes.

#if defined(__clang__)
#define SWIFTBALANCER_THREAD_ANNOTATION(note) __attribute__((note))
#else
#define SWIFTBALANCER_THREAD_ANNOTATION(note)
#endif

/// Of a class: its objects can be held, as a mutex is.
#define SWIFTBALANCER_CAPABILITY(name) SWIFTBALANCER_THREAD_ANNOTATION(capability(name))
/// Of a class: holds a mutex from its construction to its destruction.
#define SWIFTBALANCER_SCOPED_CAPABILITY SWIFTBALANCER_THREAD_ANNOTATION(scoped_lockable)

/// Of a member: read and written only under this mutex.
#define SWIFTBALANCER_GUARDED_BY(mutex) SWIFTBALANCER_THREAD_ANNOTATION(guarded_by(mutex))
/// Of a pointer member: what it points to is.
#define SWIFTBALANCER_PT_GUARDED_BY(mutex) SWIFTBALANCER_THREAD_ANNOTATION(pt_guarded_by(mutex))

/// Of a function: its caller holds this mutex.
#define SWIFTBALANCER_REQUIRES(...) \
  SWIFTBALANCER_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
/// Of a function: its caller does not hold it.
#define SWIFTBALANCER_EXCLUDES(...) SWIFTBALANCER_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
/// Of a function: it locks, and the mutex stays locked.
#define SWIFTBALANCER_ACQUIRE(...) SWIFTBALANCER_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
/// Of a function: it unlocks what its caller has locked.
#define SWIFTBALANCER_RELEASE(...) SWIFTBALANCER_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
