// What every function of the shim has in common: an exception becomes -1, and its message the thread's last error.
#pragma once
#include <exception>
#include <string>

inline thread_local std::string plumbline_last_error;

template <class F>
int guarded(F body) {
  try {
    body();
    return 0;
  } catch (const std::exception& e) {
    plumbline_last_error = e.what();
  } catch (...) {
    plumbline_last_error = "an exception that is not a std::exception";
  }
  return -1;
}
