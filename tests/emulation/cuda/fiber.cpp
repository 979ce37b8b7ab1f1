// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__x86_64__)

// Leaves the caller's stack pointer in *from and goes on at that of `to`, with the registers that a
// function must keep. swapcontext would ask the system for signal masks each time.
extern "C" void intflash_switch_stacks(void** from, void* to);
__asm__(
    ".text\n"
    ".globl intflash_switch_stacks\n"
    ".hidden intflash_switch_stacks\n"
    ".type intflash_switch_stacks, @function\n"
    "intflash_switch_stacks:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size intflash_switch_stacks, .-intflash_switch_stacks\n");

namespace intflash::emulation {

void Fiber::start(void (*body)()) {
  // As if body had been called: its return address at a multiple of 16 less 8, below it six
  // registers.
  auto* top = reinterpret_cast<void**>(static_cast<char*>(stack_) + kStackBytes) - 2;
  *top = reinterpret_cast<void*>(body);
  own_ = top - 6;
}
void Fiber::resume() { intflash_switch_stacks(&resumer_, own_); }
void Fiber::give_way() { intflash_switch_stacks(&own_, resumer_); }

}  // namespace intflash::emulation

#else

#include <ucontext.h>

namespace intflash::emulation {

void Fiber::start(void (*body)()) {
  auto* const own = new (stack_) ucontext_t;
  auto* const resumer = new (own + 1) ucontext_t;
  ::getcontext(own);
  own->uc_stack.ss_sp = resumer + 1;
  own->uc_stack.ss_size = kStackBytes - 2 * sizeof(ucontext_t);
  own->uc_link = nullptr;
  ::makecontext(own, body, 0);
  own_ = own;
  resumer_ = resumer;
}
void Fiber::resume() {
  ::swapcontext(static_cast<ucontext_t*>(resumer_), static_cast<ucontext_t*>(own_));
}
void Fiber::give_way() {
  ::swapcontext(static_cast<ucontext_t*>(own_), static_cast<ucontext_t*>(resumer_));
}

}  // namespace intflash::emulation

#endif

namespace intflash::emulation {

Fiber::Fiber()
    : stack_(::mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                    0)) {
  if (stack_ == MAP_FAILED) throw std::bad_alloc();
}
Fiber::~Fiber() { ::munmap(stack_, kStackBytes); }

}  // namespace intflash::emulation
